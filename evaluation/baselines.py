"""What a user would try before a model: popularity, the user's own history, item-kNN."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

Ids = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]

_CHUNK = 250


class Baseline(Protocol):
    """Ranks Pins for users, given as USER_RECORDs of just before the query."""

    name: str

    def top(self, users: Records, k: int) -> Ids:
        """Pin ids, best first: shape (Q, k); -1 where it has no more to offer."""
        ...


class Popularity:
    """The Pins that stood in most baskets of the training window, for everybody alike."""

    name = "popularity"

    def __init__(self, engagements: pl.DataFrame) -> None:
        baskets = engagements.select("basket_id", "pin_id").unique()
        counts = baskets.group_by("pin_id").len().sort(["len", "pin_id"], descending=[True, False])
        self.ranking = counts["pin_id"].to_numpy()

    def top(self, users: Records, k: int) -> Ids:
        """See `Baseline`."""
        padded = np.concatenate([self.ranking[:k], np.full(max(0, k - len(self.ranking)), -1, np.int64)])
        return np.tile(padded, (len(users), 1))


class OwnHistory:
    """The strongest Pins of the user's own decayed history, then the popular ones: «buy it again»."""

    name = "own history"

    def __init__(self, popularity: Popularity) -> None:
        self._popularity = popularity

    def top(self, users: Records, k: int) -> Ids:
        """See `Baseline`."""
        popular = self._popularity.ranking[: 2 * k]
        rows = []
        for history in users["history_pins"][:, :k]:
            own = history[history >= 0]
            rest = popular[~np.isin(popular, own)][: k - len(own)]
            rows.append(np.concatenate([own, rest, np.full(k - len(own) - len(rest), -1, np.int64)]))
        return np.array(rows, np.int64).reshape(len(users), k)


class ItemKnn:
    """Item-based collaborative filtering (Sarwar et al., WWW 2001).

    The score of Pin i is the sum over the history's Pins j of weight_j * cosine(i, j), with cosines
    over the binary household-by-product matrix of the training window, and the same decayed history of
    50 Pins that the query tower gets. Pins of the history may be recommended again.
    """

    name = "item-kNN"

    def __init__(self, engagements: pl.DataFrame) -> None:
        # scipy belongs to the [demo] extra.
        from scipy import sparse  # noqa: PLC0415

        pairs = engagements.select("user_id", "pin_id").unique(maintain_order=True)
        self._pins, columns = np.unique(pairs["pin_id"].to_numpy(), return_inverse=True)
        users, rows = np.unique(pairs["user_id"].to_numpy(), return_inverse=True)
        buyers = np.bincount(columns, minlength=len(self._pins))
        values = (1 / np.sqrt(buyers[columns])).astype(np.float32)
        self._unit = sparse.csr_matrix((values, (rows, columns)), shape=(len(users), len(self._pins)))
        self._by_pin = self._unit.T.tocsr()

    def top(self, users: Records, k: int) -> Ids:
        """See `Baseline`."""
        found = np.full((len(users), k), -1, np.int64)
        for start in range(0, len(users), _CHUNK):
            scores = self._scores(users[start : start + _CHUNK])
            some = np.sort(np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k], axis=1)
            order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
            best = np.take_along_axis(some, order, axis=1)
            found[start : start + _CHUNK, : best.shape[1]] = self._pins[best]
        return found

    def _scores(self, users: Records) -> npt.NDArray[np.float32]:
        from scipy import sparse  # noqa: PLC0415

        history, weights = users["history_pins"], users["history_scores"]
        columns = np.minimum(np.searchsorted(self._pins, history), len(self._pins) - 1)
        known = (self._pins[columns] == history) & (weights > 0)
        rows = np.broadcast_to(np.arange(len(users))[:, None], history.shape)
        queries = sparse.csr_matrix(
            (weights[known], (rows[known], columns[known])), shape=(len(users), len(self._pins))
        )
        scores: npt.NDArray[np.float32] = ((queries @ self._by_pin) @ self._unit).toarray()
        return scores
