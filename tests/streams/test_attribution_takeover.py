"""A row whose partition goes away in the moment of its sending, and comes back."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from schemas.codec import decode
from schemas.impressions import ImpressionAttributed
from streams.attribution import AttributionRules, AttributionStep
from streams.attribution_telemetry import AttributionTelemetry
from streams.attribution_windows import AttributionWindows
from streams.steps import RawEvent

from .raw_events import bought, raw, served, visit
from .step_doubles import Around, MemoryOutlet

FAR = 10_000
LANES = [(topic, 0) for topic in AttributionStep.topics]


def _around(path: Path) -> Around:
    rules = AttributionRules(AttributionWindows(10, 10, 10, 50, 50), lateness_ms=0, idle_ms=0)
    step = AttributionStep(path, rules, AttributionTelemetry(CollectorRegistry()))
    return Around(step, outlet=MemoryOutlet(failures=1), owned=frozenset(LANES))


def _far() -> list[RawEvent]:
    """One event on every topic, after every window."""
    messages = (served(FAR, request="end", pin=99), visit(FAR, pin=99), bought(FAR, pin=99))
    return [raw(message, 1 if number == 0 else 0) for number, message in enumerate(messages)]


def _bring(around: Around, *events: RawEvent) -> None:
    """As they come: first on the topic, then taken."""
    for one in events:
        around.source.logs.setdefault((one.topic, one.partition), []).append(one)
    around.driver.take(events)


def _requests(around: Around) -> list[str]:
    return [decode(ImpressionAttributed, one.value).request_id for one in around.outlet.outputs]


def test_a_row_that_was_held_back_by_a_rebalance_is_sent_when_its_partition_is_back(tmp_path: Path) -> None:
    around = _around(tmp_path)

    def lose() -> None:
        around.owned = frozenset()

    around.outlet.on_send = lose
    around.driver.assigned(LANES)
    _bring(around, raw(served(100), 0))
    _bring(around, *_far())
    assert _requests(around) == []
    # Calls that were on their way when the partitions went.
    around.driver.tick()
    _bring(around, raw(visit(FAR + 1, pin=99), 1))
    assert _requests(around) == []

    around.owned = frozenset(LANES)
    around.driver.assigned(LANES)
    around.driver.tick()
    around.driver.tick()
    assert _requests(around) == ["r1"]
    around.driver.close()
