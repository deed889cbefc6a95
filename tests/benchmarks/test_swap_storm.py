from pathlib import Path

from benchmarks.fixtures import catalogue, save_release, save_tower
from benchmarks.swap_storm import FULL_SWAPS, ROLLBACK_EVERY, WARM_UP_SWAPS, move
from index.releases import ReleaseStore


def test_every_tenth_move_is_a_rollback_and_each_makes_another_release_live(tmp_path: Path) -> None:
    pins = catalogue(20, seed=0)
    order = [save_release(tmp_path, save_tower(tmp_path, seed), pins) for seed in (1, 2, 3)]
    store = ReleaseStore(tmp_path / "releases")
    store.publish(order[0], actor="test", reason="first")
    live = [move(store, order, number) for number in range(1, 13)]
    first, second, third = order
    assert live == [second, third, first] * 3 + [third, first, second]
    assert [line.action for line in store.audit()][1:] == ["publish"] * 9 + ["rollback"] + ["publish"] * 2
    assert store.current() == live[-1]


def test_a_full_run_is_a_thousand_swaps_of_which_a_hundred_are_rollbacks() -> None:
    moves = range(WARM_UP_SWAPS + 1, WARM_UP_SWAPS + FULL_SWAPS + 1)
    assert sum(number % ROLLBACK_EVERY == 0 for number in moves) == 100
    assert sum(number % ROLLBACK_EVERY == 0 for number in range(1, WARM_UP_SWAPS + 1)) == 0
