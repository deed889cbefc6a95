"""What a training row says of its Pin is what the answer was made with: log → impression → row → table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from datasets.attributed_rows import PIN_COLUMNS, actions_of, table_of
from entrypoints.training_table import SnapshotPins
from features.definitions import registry
from index.snapshot_retention import retain_snapshots
from index.snapshots import list_snapshots
from schemas.codec import decode, encode
from schemas.impressions import ImpressionAttributed
from schemas.logs import RankingLog
from schemas.ranking import RankRequest
from schemas.times import DAY_MS
from serving.answers import log_of
from serving.live_release import Assembly, LiveRelease
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.telemetry import ServingTelemetry
from streams.attribution import AttributionRules, AttributionStep
from streams.attribution_telemetry import AttributionTelemetry
from streams.impressions import impressions_of
from tests.serving.fakes import HOUR_MS, NOON_MS, REGISTRY_HASH, FakeClock, fake_index, live, pins
from tests.serving.test_fresh_inventory import OTHER, TOWER, changes, lay_over
from tests.streams.raw_events import bought, raw, served, visit

from .test_training_table import cut

MINUTE_MS = 60_000


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[ServingParts]:
    config = ServingConfig(
        data=tmp_path,
        registry=registry(),
        clock=FakeClock().clock(),
        telemetry=ServingTelemetry(CollectorRegistry()),
    )
    made = build_parts(config)
    yield made
    made.close()


def served_from(parts: ServingParts, snapshot_id: str) -> LiveRelease:
    """Pins 100 to 104 with a price of 1 to 5, live at `parts`, as built from this snapshot."""
    rows = pins(5, price_micros=[1, 2, 3, 4, 5], target_ages=0b11)
    index = fake_index("r1", TOWER, rows)
    index.manifest = index.manifest.model_copy(update={"snapshot_id": snapshot_id})
    assembly = Assembly(REGISTRY_HASH, parts.config.policy.auction, parts.ledger, parts.clock.now_ms)
    release = live(index, assembly)
    parts.handle.swap(release)
    return release


def log_at(parts: ServingParts) -> RankingLog:
    """The log of one answer, as a reader gets it."""
    request = RankRequest(user_id=1, slots=5, age="19-24")
    return decode(RankingLog, encode(log_of(parts.pipeline.rank(request))))


def without_attributes(log: RankingLog) -> RankingLog:
    """The log as a server wrote it that did not log attributes of Pins yet."""
    none = dict.fromkeys(PIN_COLUMNS)
    return log.model_copy(update={"ads": [ad.model_copy(update=none) for ad in log.ads]})


def rows_after(path: Path, log: RankingLog, after_ms: int) -> list[ImpressionAttributed]:
    """Rows of the log's ads that are there so long after it was served, by Pin."""
    now_ms = log.served_at_ms + after_ms
    later = [served(now_ms, request="later", pin=99), visit(now_ms, pin=99), bought(now_ms, pin=99)]
    events = [raw(one, offset) for offset, one in enumerate(impressions_of(log))]
    events += [raw(one, 1_000) for one in later]
    step = AttributionStep(
        path, AttributionRules(lateness_ms=0, idle_ms=0), AttributionTelemetry(CollectorRegistry())
    )
    try:
        outputs = step.apply(events).outputs
    finally:
        step.close()
    rows = [decode(ImpressionAttributed, one.value) for one in outputs]
    return sorted(rows, key=lambda row: row.pin_id)


def told(rows: list[ImpressionAttributed], pins_of: SnapshotPins) -> dict[str, list[Any]]:
    table = table_of(rows, actions_of([]), pins_of)
    columns: dict[str, list[Any]] = table.select(["pin_id", *PIN_COLUMNS]).to_pydict()
    return columns


def test_a_row_has_its_columns_when_its_snapshot_went_before_its_window_was_over(
    parts: ServingParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # of two hundred cuts it is most of the time
    root, day = tmp_path / "snapshots", NOON_MS // DAY_MS * DAY_MS
    hours = [cut(root, {100: 1}, hour_ms=day + hour * HOUR_MS) for hour in range(12 + 8 * 24)]
    served_from(parts, hours[11])
    retain_snapshots(root, "realtime", count=8, days=7)

    rows = rows_after(tmp_path / "state", log_at(parts), 7 * DAY_MS + MINUTE_MS)
    snapshots = SnapshotPins(root)

    assert hours[11] not in list_snapshots(root)
    assert told(rows, snapshots) == {
        "pin_id": [100, 101, 102, 103, 104],
        "pin_price_micros": [1, 2, 3, 4, 5],
        "pin_daily_budget_micros": [10_000_000] * 5,
        "pin_target_ages": [0b11] * 5,
        "pin_input_mask": [3] * 5,
        "pin_updated_at_ms": [NOON_MS - HOUR_MS] * 5,
    }
    assert snapshots.missing == set()


@pytest.mark.parametrize("tower", [TOWER, OTHER], ids=["overlay", "patch"])
def test_a_row_has_the_price_that_came_after_the_snapshot(
    parts: ServingParts, tmp_path: Path, tower: str
) -> None:
    """From a row of another tower the Pin has its new attributes, and the input mask of its own embedding."""
    root = tmp_path / "snapshots"
    release = served_from(parts, cut(root, {100: 1, 101: 2, 102: 3, 103: 4, 104: 5}))
    newer = pins(
        5,
        price_micros=77,
        daily_budget_micros=900_000,
        target_ages=0b101,
        occurred_at_ms=NOON_MS,
        input_mask=7,
    )
    lay_over(release, changes(newer[2:3], [0.9], tower=tower))

    columns = told(rows_after(tmp_path / "state", log_at(parts), 8 * DAY_MS), SnapshotPins(root))

    assert columns["pin_price_micros"] == [1, 2, 77, 4, 5]
    assert {name: values[2] for name, values in columns.items()} == {
        "pin_id": 102,
        "pin_price_micros": 77,
        "pin_daily_budget_micros": 900_000,
        "pin_target_ages": 0b101,
        "pin_input_mask": 7 if tower == TOWER else 3,
        "pin_updated_at_ms": NOON_MS,
    }


def test_a_row_of_an_older_log_has_what_its_snapshots_say(parts: ServingParts, tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    fast, slow = cut(root, {100: 10, 102: 30}), cut(root, {103: 40}, tier="slow")
    served_from(parts, f"{fast}+{slow}")

    rows = rows_after(tmp_path / "state", without_attributes(log_at(parts)), 8 * DAY_MS)
    columns = told(rows, SnapshotPins(root))

    assert columns["pin_price_micros"] == [10, None, 30, 40, None]
    assert columns["pin_updated_at_ms"] == [7, None, 7, 7, None]
