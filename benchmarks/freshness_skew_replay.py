"""The timeline, step by step: changes arrive, towers embed them, designs show them, baskets ask."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evaluation.version_mix import VersionMix
from models.predictor import EmbeddedPins

from .freshness_skew_answers import Answers, Asking, Mixes
from .freshness_skew_clock import HOUR_MS, MINUTE_MS, Timeline
from .freshness_skew_designs import Design, Released
from .freshness_skew_ours import Product, Took, timing
from .freshness_skew_rows import Matrix, Shown, Slots
from .freshness_skew_stream import Queries, Stream, spans
from .freshness_skew_towers import Tower

STEP_MS = 10 * MINUTE_MS
_KEPT_MS = 2 * HOUR_MS
"""For so long after its successor is ready a tower still embeds: nobody uses it any more after that."""
_PRODUCT_EVERY_MS = 24 * HOUR_MS


class TowerTables:
    """Every Pin's vector by each tower in use, as fp16 holds it, for the state that it is in."""

    def __init__(self, stream: Stream, towers: list[Tower]) -> None:
        self._stream, self._towers = stream, towers
        self._vectors: dict[int, Matrix] = {}
        self.updates, self.bulk = Took(), Took()
        self.update_forwards = 0
        self.last: dict[int, EmbeddedPins] = {}

    def rows(self, version: int, slots: Slots) -> Matrix:
        """See `Tables`."""
        return self._vectors[version][slots]

    def all(self, version: int) -> Matrix:
        """A copy of all of them."""
        return self._vectors[version].copy()

    def embed_all(self, version: int) -> EmbeddedPins:
        """The whole catalogue by one tower."""
        with timing(self.bulk):
            embedded = self._towers[version].pin.embed(self._stream.records)
        self._vectors[version] = _rounded(embedded.vectors)
        return embedded

    def update(self, slots: Slots, versions: list[int]) -> None:
        """These Pins changed."""
        self._vectors = {version: self._vectors[version] for version in versions}
        self.last = {}
        if len(slots):
            for version in versions:
                with timing(self.updates):
                    embedded = self._towers[version].pin.embed(self._stream.records[slots])
                self.update_forwards += len(slots)
                self._vectors[version][slots] = _rounded(embedded.vectors)
                self.last[version] = embedded


def _rounded(vectors: Matrix) -> Matrix:
    return vectors.astype(np.float16).astype(np.float32)


@dataclass
class Replay:
    """One run of all designs over one timeline. The first design is the reference, `ours` the product's."""

    stream: Stream
    timeline: Timeline
    towers: list[Tower]
    tables: TowerTables
    designs: list[Design]
    clocks: list[Design]
    """Designs of which only versions are followed, not vectors."""
    ours: Released
    union: Design
    product: Product
    asking: Asking
    """The judged queries."""
    queries: Queries
    """All of them."""
    near: npt.NDArray[np.bool_]
    """Which of all are around a rollover."""
    say: Callable[[str], None]
    answers: dict[str, Answers] = field(default_factory=dict)
    mixes: dict[str, Mixes] = field(default_factory=dict)
    refusal: dict[str, str] | None = None

    def run(self) -> None:
        """From the first step to the last."""
        reference = Answers(self.designs[0], self.asking)
        self.answers = {self.designs[0].name: reference}
        for design in self.designs[1:]:
            self.answers[design.name] = Answers(design, self.asking, reference)
        versions = self.timeline.versions
        for design in [*self.designs, *self.clocks]:
            self.mixes[design.name] = Mixes(VersionMix(versions), VersionMix(versions))
        started = said = time.monotonic()
        for start_ms, end_ms in spans(self._marks(), self.timeline.start_ms, self.timeline.end_ms):
            self._ask(start_ms, end_ms)
            self._move(end_ms)
            if time.monotonic() - said > 5:
                said = time.monotonic()
                done = (end_ms - self.timeline.start_ms) / (self.timeline.end_ms - self.timeline.start_ms)
                self.say(f"replay {done:.0%}, {(said - started) * (1 / done - 1):.0f} s to go")
        for answers in self.answers.values():
            answers.flush()

    def _marks(self) -> set[int]:
        grid = set(range(self.timeline.start_ms, self.timeline.end_ms, STEP_MS))
        return grid.union(*(design.moments() for design in [*self.designs, *self.clocks]))

    def _ask(self, start_ms: int, end_ms: int) -> None:
        judged = _between(self.asking.queries, start_ms, end_ms)
        for answers in self.answers.values():
            answers.ask(judged)
        rows = _between(self.queries, start_ms, end_ms)
        if len(rows):
            for design in [*self.designs, *self.clocks]:
                self.mixes[design.name].add(design, self.queries, rows, self.near)

    def _move(self, now_ms: int) -> None:
        step = self.stream.take(now_ms)
        versions = self._in_use(now_ms - 1)
        self.tables.update(step.slots, versions)
        for version, embedded in self.tables.last.items():
            self.product.embedded(version, self.stream.records[step.slots], step.slots, embedded)
        if len(step.slots):
            for design in [*self.designs, *self.clocks]:
                design.rows(now_ms, step.slots, step.arrived_ms, self.tables)
        if now_ms in self.timeline.ready_ms:
            self._new_tower(int(self.timeline.newest(now_ms)[0]))
        for design in [*self.designs, *self.clocks]:
            design.due(now_ms, self.tables)
        self._products_turn(now_ms)

    def _in_use(self, at_ms: int) -> list[int]:
        ends = [ready + _KEPT_MS for ready in self.timeline.ready_ms]
        oldest = sum(end <= at_ms for end in ends)
        return list(range(oldest, int(self.timeline.newest(at_ms)[0]) + 1))

    def _new_tower(self, version: int) -> None:
        embedded = self.tables.embed_all(version)
        self.product.live([version - 1, version])
        everything = np.arange(len(self.stream.records), dtype=np.intp)
        self.product.embedded(version, self.stream.records, everything, embedded)

    def _products_turn(self, now_ms: int) -> None:
        """Real releases once a day and at each rollover; there the delta and the mixed union are tried."""
        swapped = now_ms in self.ours.swaps_ms
        daily = (now_ms - self.timeline.start_ms) % _PRODUCT_EVERY_MS == 0
        if not swapped and not daily:
            return
        live = int(self.ours.serving(now_ms)[0])
        if swapped and not self.product.complete(live, live - 1):
            raise AssertionError(f"version {live} went live before it was complete")
        self.product.check(self.ours.shown) if not swapped else None
        self.product.release(live, now_ms // HOUR_MS * HOUR_MS)
        self.product.check(self.ours.shown)
        shown: Shown = self.union.shown
        if swapped:
            self.refusal = self.refusal or self.product.refuses(shown, self.stream.records, now_ms)
        else:
            part = np.arange(len(shown), dtype=np.intp)[:: self.timeline.settings.union_hours]
            self.product.shard(shown, part, self.stream.records, now_ms)


def _between(queries: Queries, start_ms: int, end_ms: int) -> Slots:
    first, after = np.searchsorted(queries.at_ms, [start_ms, end_ms])
    return np.arange(first, after, dtype=np.intp)
