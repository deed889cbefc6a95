import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from features.pin_state import Records, empty_records
from streams.embedded_rows import embedded_rows
from streams.telemetry import EnrichmentTelemetry
from streams.tower_costs import TowerCost, TowerCosts, resident_bytes
from tests.fakes import FakeEmbedded, FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B


class _Clock:
    """CPU seconds: each Pin of a forward takes a quarter of one."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class _Slow(FakePinTower):
    def __init__(self, version: str, clock: _Clock, poison: frozenset[int] = frozenset()) -> None:
        super().__init__(version=version, poison=poison)
        self._clock = clock

    def embed(self, pins: Records, /) -> FakeEmbedded:
        self._clock.now += 0.25 * len(pins)
        return super().embed(pins)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def _value(registry: CollectorRegistry, name: str, place: int) -> float:
    return registry.get_sample_value(f"skewless_enrichment_{name}_total", {"tower": str(place)}) or 0.0


def test_forwards_are_counted_by_version_and_by_place_and_failed_ones_cost_too(
    registry: CollectorRegistry,
) -> None:
    clock = _Clock()
    costs = TowerCosts(EnrichmentTelemetry(registry), clock)
    towers = [_Slow(VERSION_A, clock), _Slow(VERSION_B, clock, frozenset({2}))]
    old, new = costs.metered(towers)
    old.embed(empty_records(np.arange(4)))
    with pytest.raises(ValueError, match="not finite"):
        new.embed(empty_records(np.arange(8)))
    (promoted,) = costs.metered(towers[1:])
    promoted.embed(empty_records(np.arange(2)))
    assert {version: one.embed_cpu_seconds for version, one in costs.by_version.items()} == {
        VERSION_A: 1.0,
        VERSION_B: 2.5,
    }
    assert [_value(registry, "embed_cpu_seconds", place) for place in (0, 1)] == [1.5, 2.0]


def test_rows_and_their_bytes_are_counted_and_those_of_a_backfill_apart(registry: CollectorRegistry) -> None:
    costs = TowerCosts(EnrichmentTelemetry(registry), lambda: 0.0)
    records = empty_records(np.array([7, 123]))
    titles = ["«é»".join('""').encode(), b""]
    rows = embedded_rows(VERSION_A, records, titles, np.ones((2, 4), np.float32), np.zeros(2, np.int64))
    exact = sum(len(text.encode()) for text in (*rows.keys, *rows.values))
    assert rows.size_bytes == exact
    costs.produced(0, rows)
    costs.produced(1, rows, backfill=True)
    assert costs.by_version == {VERSION_A: TowerCost(rows=4, row_bytes=2 * exact, backfill_rows=2)}
    assert [_value(registry, "row_bytes", place) for place in (0, 1)] == [exact, exact]


def test_a_process_of_python_and_numpy_has_more_than_ten_megabytes() -> None:
    assert 10 << 20 < resident_bytes() < 1 << 40
