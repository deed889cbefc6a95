"""Who is asking: the stored user, overridden by what the request says about itself."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.pin_state import stable_hash
from features.store import RecordStore
from features.user_state import SEGMENTS, contexts, empty_users
from schemas.events import AGE_BANDS
from schemas.ranking import RankRequest

Records = npt.NDArray[np.void]

_AGE_SEGMENT = SEGMENTS.index("age")
_ANONYMOUS = -1


@dataclass(frozen=True)
class Asker:
    """One user and query context, as the query tower takes them (arrays of length 1)."""

    users: Records
    contexts: Records
    age_band: int
    """1 + index in AGE_BANDS, or 0 when unknown."""
    known: bool


class UserReader:
    """Reads users from a store of `features.user_state.USER_RECORD`; without one, everyone is new."""

    def __init__(self, store: RecordStore | None) -> None:
        self._store = store

    def read(self, request: RankRequest, at_ms: int) -> Asker:
        """The user of `request` at `at_ms`; someone unknown is an empty record, never an error."""
        users, found = self._stored(request.user_id)
        if request.age is not None:
            users["age_band"] = 1 + AGE_BANDS.index(request.age)
            users["segments"][:, _AGE_SEGMENT] = stable_hash(request.age)
        if request.history is not None:
            _override_history(users, request.history)
        return Asker(
            users=users,
            contexts=contexts(users, np.array([at_ms], np.int64)),
            age_band=int(users["age_band"][0]),
            known=found or request.age is not None or bool(request.history),
        )

    def _stored(self, user_id: int | None) -> tuple[Records, bool]:
        if user_id is None or self._store is None:
            return empty_users(np.array([_ANONYMOUS if user_id is None else user_id], np.int64)), False
        ids = np.array([user_id], np.int64)
        users, found, _ = self._store.get_many(ids)
        return (users, True) if found[0] else (empty_users(ids), False)


def _override_history(users: Records, pins: list[int]) -> None:
    """History given in the request: the n-th Pin weighs 1/n. Pins that the store knew keep their category."""
    known = dict(zip(users["history_pins"][0].tolist(), users["history_categories"][0].tolist(), strict=True))
    distinct = list(dict.fromkeys(pins))
    size = len(distinct)
    users["history_pins"] = -1
    users["history_categories"] = 0
    users["history_scores"] = 0
    users["history_pins"][0, :size] = distinct
    users["history_categories"][0, :size] = [known.get(pin, 0) for pin in distinct]
    users["history_scores"][0, :size] = 1.0 / np.arange(1, size + 1, dtype=np.float32)
