import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.pin_state import stable_hash
from features.user_state import (
    HALF_LIFE_DAYS,
    HISTORY,
    SEGMENTS,
    contexts,
    empty_users,
    fold_engagements,
    segment_hashes,
)

DAY_MS = 86_400_000
NOW = 17_000 * DAY_MS


def _fold(users: np.ndarray, slots: list[int], pins: list[list[int]], at: list[int]) -> None:
    width = max(map(len, pins), default=0)
    padded = np.array([row + [-1] * (width - len(row)) for row in pins], np.int64).reshape(len(pins), width)
    categories = np.where(padded >= 0, padded + 1000, 0).astype(np.uint32)
    fold_engagements(users, np.array(slots, np.intp), padded, categories, np.array(at, np.int64))


def _history(users: np.ndarray, slot: int = 0) -> dict[int, float]:
    record = users[slot]
    return {
        int(pin): float(score)
        for pin, score in zip(record["history_pins"], record["history_scores"], strict=True)
        if pin >= 0
    }


def test_an_engagement_counts_half_after_a_half_life() -> None:
    users = empty_users(np.array([1]))
    _fold(users, [0], [[7]], [NOW])
    _fold(users, [0], [[8]], [NOW + int(HALF_LIFE_DAYS * DAY_MS)])
    assert _history(users) == {8: 1.0, 7: 0.5}
    assert users["history_pins"][0, :3].tolist() == [8, 7, -1]
    assert users["last_engaged_at_ms"].tolist() == [NOW + 28 * DAY_MS]


def test_a_pin_seen_again_adds_to_what_is_left_of_its_score() -> None:
    users = empty_users(np.array([1]))
    _fold(users, [0], [[7, 8]], [NOW])
    _fold(users, [0], [[7]], [NOW + 56 * DAY_MS])
    assert _history(users) == {7: 1.25, 8: 0.25}


def test_of_equal_scores_the_lower_pin_id_comes_first() -> None:
    users = empty_users(np.array([1]))
    _fold(users, [0], [[9, 3, 5]], [NOW])
    assert users["history_pins"][0, :4].tolist() == [3, 5, 9, -1]
    assert users["history_categories"][0, :4].tolist() == [1003, 1005, 1009, 0]


def test_the_weakest_fall_out_when_the_history_is_full() -> None:
    users = empty_users(np.array([1]))
    _fold(users, [0], [list(range(HISTORY))], [NOW])
    _fold(users, [0], [[100, 101]], [NOW + DAY_MS])
    pins = users["history_pins"][0].tolist()
    assert pins == [100, 101, *range(HISTORY - 2)]


def test_padding_and_an_empty_session_change_no_history() -> None:
    users = empty_users(np.array([1]))
    _fold(users, [0], [[]], [NOW])
    assert _history(users) == {} and users["last_engaged_at_ms"].tolist() == [0]
    _fold(users, [0], [[7]], [NOW])
    before = users.copy()
    _fold(users, [0], [[-1]], [NOW])
    assert users.tobytes() == before.tobytes()


sessions = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 90), max_size=60, unique=True), st.integers(0, 40)),
    max_size=12,
)


@given(sessions)
def test_users_folded_together_and_one_by_one_are_the_same(rounds: list[tuple[int, list[int], int]]) -> None:
    """Each round is one session of each of four users: all at once, or user by user."""
    together, alone = empty_users(np.arange(4)), empty_users(np.arange(4))
    at = NOW
    for shift, pins, days in rounds:
        at += days * DAY_MS
        rows = [[(pin + user * shift) % 91 for pin in pins] for user in range(4)]
        _fold(together, [0, 1, 2, 3], rows, [at] * 4)
        for user in (3, 1, 0, 2):
            _fold(alone, [user], [rows[user]], [at])
    assert together.tobytes() == alone.tobytes()
    for user in range(4):
        scores = together["history_scores"][user]
        assert (np.diff(scores) <= 0).all()
        assert ((scores > 0) == (together["history_pins"][user] >= 0)).all()


def test_segments_stand_in_their_order_and_unknown_ones_are_0() -> None:
    hashes = segment_hashes({"income": "50-74K", "age": None, "kids_count": "", "pets": "3"})
    assert hashes == [0, stable_hash("50-74K"), 0, 0, 0, 0, 0]
    assert len(hashes) == len(SEGMENTS)


def test_a_context_holds_the_queries_time_and_the_users_last_engagement() -> None:
    users = empty_users(np.array([1, 2]))
    users["last_engaged_at_ms"] = [5, 6]
    made = contexts(users, np.array([10, 20]))
    assert made.tolist() == [(10, 5), (20, 6)]


@pytest.mark.parametrize("text", ["", "a", "Crème"])
def test_a_hash_of_text_is_never_the_missing_value(text: str) -> None:
    assert 0 < stable_hash(text) < 2**32
