"""What a design answered to real baskets: the Pins found, their scores, and whose versions they were of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.calibration_error import CalibrationError, calibration_error
from evaluation.recall import recall_at_k
from evaluation.version_mix import VersionMix, mixed_answers
from models.calibration import probabilities
from schemas.manifests import Calibration

from .freshness_skew_clock import Ints
from .freshness_skew_designs import Design
from .freshness_skew_rows import Matrix, Slots
from .freshness_skew_stream import Queries

RECALL_K = 20
CANDIDATES = 200
_AT_ONCE = 256


@dataclass(frozen=True)
class Asking:
    """The queries, and what each version's query tower makes of them: (V, Q, D)."""

    queries: Queries
    vectors: npt.NDArray[np.float32]
    calibrations: Sequence[Calibration]
    pin_ids: Ints


class Answers:
    """Answers of one design. Questions wait until its rows are about to change, then go in one product.

    `reference` is whose candidates everybody's scores are compared on (None: one's own).
    """

    def __init__(self, design: Design, asking: Asking, reference: "Answers | None" = None) -> None:
        count = len(asking.queries)
        self.design = design
        self._asking, self._reference = asking, reference
        self._pending: list[int] = []
        self.codes = np.zeros(count, np.int8)
        self.found = np.full((count, CANDIDATES), -1, np.int32)
        self.dots = np.zeros((count, CANDIDATES), np.float32)
        self.candidate_dots = np.zeros((count, CANDIDATES), np.float32)
        self.mixed = np.zeros(count, bool)
        design.shown.before_change = self.flush

    def ask(self, rows: Slots) -> None:
        """Put these queries to the design as it stands."""
        at_ms, users = self._asking.queries.at_ms[rows], self._asking.queries.users[rows]
        self.codes[rows] = self.design.query_codes(at_ms, users)
        self._pending.extend(rows.tolist())
        while len(self._pending) >= _AT_ONCE:
            self._answer(self._pending[:_AT_ONCE])
            self._pending = self._pending[_AT_ONCE:]

    def flush(self) -> None:
        """Answer everything that waits."""
        if self._pending:
            self._answer(self._pending)
            self._pending = []

    def _answer(self, waiting: list[int]) -> None:
        rows = np.array(waiting, np.intp)
        if self._reference is not None:
            self._reference.flush()
        shown = self.design.shown
        assert shown.vectors is not None
        queries = self._asking.vectors[self.codes[rows], rows]
        found, dots = search(queries, shown.vectors, CANDIDATES)
        self.found[rows], self.dots[rows] = found, dots
        self.mixed[rows] = mixed_answers(self.codes[rows], shown.codes[found[:, :RECALL_K]])
        if self._reference is None:
            self.candidate_dots[rows] = dots
        else:
            candidates = shown.vectors[self._reference.found[rows]]
            self.candidate_dots[rows] = np.einsum("qcd,qd->qc", candidates, queries)

    def recalls(self, rows: Slots) -> npt.NDArray[np.float64]:
        """recall@20 of these queries."""
        bought = [self._asking.queries.bought[row] for row in rows.tolist()]
        return recall_at_k(self._asking.pin_ids[self.found[rows]], bought, RECALL_K)

    def own_calibration(self, rows: Slots) -> CalibrationError:
        """Of what the design itself retrieved."""
        return self._calibration(rows, self.found, self.dots)

    def common_calibration(self, rows: Slots) -> CalibrationError:
        """Of the same candidates for every design: the reference's."""
        found = self.found if self._reference is None else self._reference.found
        return self._calibration(rows, found, self.candidate_dots)

    def _calibration(
        self, rows: Slots, found: npt.NDArray[np.int32], dots: npt.NDArray[np.float32]
    ) -> CalibrationError:
        predicted = np.empty((len(rows), CANDIDATES))
        for code, calibration in enumerate(self._asking.calibrations):
            here = self.codes[rows] == code
            predicted[here] = probabilities(dots[rows[here]], calibration)
        bought = self._asking.queries.bought
        pins = self._asking.pin_ids[found[rows]]
        labels = np.stack([np.isin(pins[place], bought[row]) for place, row in enumerate(rows.tolist())])
        if not labels.any():
            labels[0, 0] = True  # so that a ratio exists at all: one more than was bought
        return calibration_error(predicted.ravel(), labels.ravel())


def search(queries: Matrix, vectors: Matrix, k: int) -> tuple[npt.NDArray[np.intp], Matrix]:
    """The exact `k` best rows of each query, best first; the arithmetic of `evaluation.compare.retrieve`."""
    dots = queries @ vectors.T
    some = np.argpartition(-dots, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(dots, some, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(some, order, axis=1)
    return best, np.take_along_axis(dots, best, axis=1)


@dataclass
class Mixes:
    """Scored pairs of every basket, and of those around a rollover."""

    all: VersionMix
    near: VersionMix

    def add(self, design: Design, queries: Queries, rows: Slots, near: npt.NDArray[np.bool_]) -> None:
        """Count these queries against the design as it stands: an exact search scores every row."""
        pins = design.shown.counts(self.all.versions)
        codes = design.query_codes(queries.at_ms[rows], queries.users[rows])
        self.all.add(codes, pins)
        self.near.add(codes[near[rows]], pins)
