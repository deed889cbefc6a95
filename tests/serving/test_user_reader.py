"""Who is asking: stored, overridden by the request, or new."""

import numpy as np

from features.pin_state import stable_hash
from features.store import MemoryStore
from features.user_state import USER_RECORD, empty_users
from schemas.ranking import RankRequest
from serving.user_reader import UserReader

from .fakes import NOON_MS


def stored() -> MemoryStore:
    store = MemoryStore(USER_RECORD)
    users = empty_users(np.array([7], np.int64))
    users["age_band"] = 3
    users["history_pins"][0, :2] = [50, 51]
    users["history_categories"][0, :2] = [500, 510]
    users["history_scores"][0, :2] = [2.0, 1.0]
    users["last_engaged_at_ms"] = NOON_MS - 1_000
    store.put_many(np.array([7], np.int64), users, [b""])
    return store


def test_a_stored_user_is_known() -> None:
    asker = UserReader(stored()).read(RankRequest(user_id=7), NOON_MS)
    assert (asker.known, asker.age_band) == (True, 3)
    assert asker.users["history_pins"][0, :3].tolist() == [50, 51, -1]
    assert asker.contexts["occurred_at_ms"].tolist() == [NOON_MS]
    assert asker.contexts["last_engaged_at_ms"].tolist() == [NOON_MS - 1_000]


def test_an_unknown_user_is_nobody_and_no_error() -> None:
    for reader in (UserReader(stored()), UserReader(None)):
        for request in (RankRequest(user_id=8), RankRequest()):
            asker = reader.read(request, NOON_MS)
            assert (asker.known, asker.age_band) == (False, 0)
            assert (asker.users["history_pins"] == -1).all()


def test_what_the_request_says_overrides_the_store() -> None:
    asker = UserReader(stored()).read(RankRequest(user_id=7, age="19-24", history=[51, 90, 51]), NOON_MS)
    assert asker.age_band == 1
    assert asker.users["segments"][0, 0] == stable_hash("19-24")
    assert asker.users["history_pins"][0, :3].tolist() == [51, 90, -1]
    # The n-th Pin weighs 1/n; the store knew the category of Pin 51 only.
    assert asker.users["history_scores"][0, :3].tolist() == [1.0, 0.5, 0.0]
    assert asker.users["history_categories"][0, :3].tolist() == [510, 0, 0]


def test_a_description_in_the_request_makes_the_user_known() -> None:
    reader = UserReader(None)
    assert reader.read(RankRequest(history=[1]), NOON_MS).known
    assert reader.read(RankRequest(age="65+"), NOON_MS).known
    assert not reader.read(RankRequest(history=[]), NOON_MS).known


def test_reading_never_changes_the_store() -> None:
    store = stored()
    UserReader(store).read(RankRequest(user_id=7, history=[1]), NOON_MS)
    assert UserReader(store).read(RankRequest(user_id=7), NOON_MS).users["history_pins"][0, 0] == 50
