"""How far queries and the Pins they were scored against are apart in tower versions, counted by pair.

Versions are ordinals here, oldest first (0, 1, 2 …): content hashes have no order of their own.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.integer]
Counts = npt.NDArray[np.int64]


@dataclass
class VersionMix:
    """Requests, the (query, Pin) pairs that they scored, and how many of those were of two versions."""

    versions: int
    requests: int = 0
    requests_with_mixed: int = 0
    pairs_by_lag: Counts = field(init=False)
    """Entry l counts the pairs whose versions are l apart; the first are the ones that belong together."""

    def __post_init__(self) -> None:
        self.pairs_by_lag = np.zeros(self.versions, np.int64)

    def add(self, queries: Codes, pins: Counts) -> None:
        """Requests of these query versions (Q,), each scored against `pins[v]` Pins of each version v.

        Raises ValueError when `pins` does not have one count for every version.
        """
        if pins.shape != (self.versions,):
            raise ValueError(f"counts of {self.versions} versions expected, came shape {pins.shape}")
        asked = np.bincount(queries, minlength=self.versions)
        for query, requests in enumerate(asked.tolist()):
            lags = np.abs(np.arange(self.versions) - query)
            np.add.at(self.pairs_by_lag, lags, requests * pins)
            if pins.sum() > pins[query]:
                self.requests_with_mixed += requests
        self.requests += len(queries)

    @property
    def pairs(self) -> int:
        """All scored pairs."""
        return int(self.pairs_by_lag.sum())

    @property
    def mixed_pairs(self) -> int:
        """Pairs of two versions."""
        return int(self.pairs_by_lag[1:].sum())

    @property
    def mixed_share(self) -> float:
        """Share of the pairs that are of two versions; 0 when nothing was scored."""
        return self.mixed_pairs / self.pairs if self.pairs else 0.0

    @property
    def mixed_request_share(self) -> float:
        """Share of the requests that scored at least one such pair."""
        return self.requests_with_mixed / self.requests if self.requests else 0.0


def mixed_answers(queries: Codes, answers: Codes) -> npt.NDArray[np.bool_]:
    """Which answers hold a Pin of another version than their query: (Q,) and (Q, k) -> (Q,).

    >>> mixed_answers(np.array([1, 1]), np.array([[1, 1, 1], [1, 0, 1]]))
    array([False,  True])
    """
    mixed: npt.NDArray[np.bool_] = (answers != queries[:, None]).any(axis=1)
    return mixed
