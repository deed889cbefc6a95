from pathlib import Path

import numpy as np
import pyarrow as pa

from entrypoints.training_table import SnapshotPins
from index.snapshots import ATTRIBUTES, SnapshotRows, write_snapshot
from tests.streams.raw_events import VERSION_A, VERSION_B


def cut(
    root: Path,
    prices: dict[int, int],
    *,
    tier: str = "realtime",
    hour_ms: int = 0,
    version: str = VERSION_A,
    offset: int = 0,
) -> str:
    """A snapshot of these Pins, Pin → price, each at this revision; its id."""
    attributes = np.zeros(len(prices), ATTRIBUTES)
    attributes["pin_id"], attributes["price_micros"] = list(prices), list(prices.values())
    attributes["daily_budget_micros"] = attributes["price_micros"] * 2
    attributes["target_ages"], attributes["input_mask"] = 5, 3
    attributes["occurred_at_ms"], attributes["changed_offset"] = hour_ms + 7, offset
    rows = SnapshotRows(
        attributes=attributes,
        vectors=np.zeros((len(prices), 4), np.float16),
        versions=[version],
        version_code=np.zeros(len(prices), np.uint8),
        titles=pa.array([""] * len(prices)),
    )
    made = write_snapshot(
        root, rows, tier=tier, hour_ms=hour_ms, clock="event", pin_inputs=["pin_id"], offsets={}
    )
    return made.snapshot_id


def test_pins_are_found_in_their_snapshot_and_unknown_ones_are_none(tmp_path: Path) -> None:
    name = cut(tmp_path, {5: 50, 1: 10})
    pins = SnapshotPins(tmp_path)

    assert pins(name, [1, 2, 5, 9, 0])["pin_price_micros"] == [10, None, 50, None, None]
    assert pins("../elsewhere", [1])["pin_price_micros"] == [None]
    assert pins.missing == {"../elsewhere"}


def test_a_pin_of_each_tier_is_found_in_the_snapshot_of_its_tier(tmp_path: Path) -> None:
    fast, slow = cut(tmp_path, {1: 10, 4: 40}, hour_ms=3_600_000), cut(tmp_path, {2: 20}, tier="slow")
    pins = SnapshotPins(tmp_path)

    assert pins(f"{fast}+{slow}", [2, 3, 1]) == {
        "pin_price_micros": [20, None, 10],
        "pin_daily_budget_micros": [40, None, 20],
        "pin_target_ages": [5, None, 5],
        "pin_input_mask": [3, None, 3],
        "pin_updated_at_ms": [7, None, 3_600_007],
    }
    assert pins.missing == set()


def test_a_tier_whose_snapshot_is_gone_takes_nothing_from_the_other(tmp_path: Path) -> None:
    gone, slow = "realtime-19700101T01Z-01234567", cut(tmp_path, {2: 20}, tier="slow")
    pins = SnapshotPins(tmp_path)

    assert pins(f"{gone}+{slow}", [1, 2])["pin_price_micros"] == [None, 20]
    assert pins.missing == {gone}


def test_of_several_snapshots_with_the_same_pin_the_newest_row_counts(tmp_path: Path) -> None:
    """As in a `tolerate` release: the highest revision, of equals the one of the freshest snapshot."""
    fresh = cut(tmp_path, {1: 11, 2: 21}, version=VERSION_B, hour_ms=3_600_000, offset=5)
    old = cut(tmp_path, {1: 10, 3: 30}, offset=5)
    ahead = cut(tmp_path, {2: 22}, version=VERSION_B, offset=6)

    assert SnapshotPins(tmp_path)(f"{fresh}+{old}+{ahead}", [1, 2, 3])["pin_price_micros"] == [11, 22, 30]


def test_a_damaged_snapshot_is_not_known(tmp_path: Path) -> None:
    name = cut(tmp_path, {1: 10})
    for path in (tmp_path / name).iterdir():
        path.write_bytes(b"damaged")

    assert SnapshotPins(tmp_path)(name, [1])["pin_price_micros"] == [None]
