"""`skewless stream` with every step in one process, killed in the middle: what comes out in the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer
from pydantic import BaseModel

from schemas.codec import decode, encode
from schemas.errors import RetryableError
from schemas.events import PinAggregated
from schemas.impressions import ImpressionAttributed
from schemas.logs import ReleasePublished
from schemas.skew import EmbeddingsCounted, SkewAlerted
from schemas.times import DAY_MS
from schemas.topics import IMPRESSION_ATTRIBUTED, PIN_AGGREGATED, SKEW_ALERTED
from streams.attribution import AttributionStep
from streams.embedded_broker import EmbeddedBroker
from streams.impressions import ImpressionsStep
from streams.kafka import KafkaSettings, producer_config
from streams.skew_monitor import SkewMonitorStep
from streams.step_source import KafkaStepSource
from streams.windows import WindowsStep

from .enrichment_oracle import read_all
from .raw_events import VERSION_A, VERSION_B, bought, ranking_log, visit

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60.0
WINDOW_SECONDS = 5
_STEPS = (WindowsStep, ImpressionsStep, AttributionStep, SkewMonitorStep)


class _Kafka:
    """What is published, what every step has acknowledged, and what came out."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        self._producer = Producer(producer_config(self.settings))
        self._sources = {
            step: KafkaStepSource(self.settings, f"skewless-stream-{step.name}") for step in _STEPS
        }

    def publish(self, *messages: BaseModel) -> None:
        for one in messages:
            fields = one.model_dump()
            name = next(each for each in ("worker", "request_id", "pin_id", "release_id") if each in fields)
            self._producer.produce(
                str(getattr(one, "type_name")),  # noqa: B009
                encode(one),
                key=str(fields[name]).encode(),
            )
        assert self._producer.flush(30) == 0

    def acknowledged(self) -> dict[str, int]:
        """Step -> how many events it is through with; none, while its group's coordinator is starting."""
        found: dict[str, int] = {}
        for step, source in self._sources.items():
            try:
                standing = source.standing(source.partitions(step.topics))
            except RetryableError:
                standing = {}
            found[step.name] = sum(one.committed or 0 for one in standing.values())
        return found

    def is_under_way(self) -> bool:
        """Each step has something behind it; the monitor, which judges by what it knows, all there is."""
        counts = self.acknowledged()
        return min(counts.values()) > 0 and counts[SkewMonitorStep.name] == 3

    def attributed(self) -> list[ImpressionAttributed]:
        rows = [
            decode(ImpressionAttributed, one.value())
            for one in read_all(self.settings, IMPRESSION_ATTRIBUTED.name)
        ]
        return [row for row in rows if row.request_id == "clean" and row.pin_id == 1]

    def alerts(self) -> list[SkewAlerted]:
        return [decode(SkewAlerted, one.value()) for one in read_all(self.settings, SKEW_ALERTED.name)]

    def visits(self, pin: int) -> int:
        """As the Pin's newest row has them, in the longest window."""
        rows = [decode(PinAggregated, one.value()) for one in read_all(self.settings, PIN_AGGREGATED.name)]
        return next(((row.offsite_visits or [0])[-1] for row in reversed(rows) if row.pin_id == pin), 0)

    def close(self) -> None:
        for source in self._sources.values():
            source.close()


@contextmanager
def _stream(kafka: _Kafka, data: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SKEWLESS_DATA_DIR": str(data),
        "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": kafka.settings.bootstrap_servers,
        "SKEWLESS_ATTRIBUTION_LATENESS_SECONDS": "0",
    }
    for kind in ("VISIT", "CLICK", "SAVE", "PURCHASE", "REDEMPTION"):
        environment[f"SKEWLESS_ATTRIBUTION_{kind}_SECONDS"] = str(WINDOW_SECONDS)
    command = [sys.executable, "-m", "entrypoints.cli", "stream", "--json"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait(what: Callable[[], bool], process: "subprocess.Popen[str]", why: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert process.poll() is None, process.returncode
        assert time.monotonic() < deadline, why()
        time.sleep(0.1)


def _release(at_ms: int) -> ReleasePublished:
    return ReleasePublished(
        release_id="20170101T00Z-1",
        tower_version=VERSION_A,
        snapshot_id="realtime-20170101T00Z-01234567",
        action="publish",
        actor="test",
        reason="test",
        occurred_at_ms=at_ms,
    )


def test_what_was_half_done_at_a_kill_is_finished_by_the_next_process_and_counted_once(
    tmp_path: Path,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    served_ms, old_ms = now_ms - 60_000, now_ms - 2 * DAY_MS
    rows = {VERSION_A: 10}
    counted = EmbeddingsCounted(
        worker="w", tier="realtime", from_ms=served_ms - 1, until_ms=served_ms, pins=10, rows=rows
    )
    with EmbeddedBroker() as broker:
        kafka = _Kafka(broker)
        kafka.publish(_release(served_ms - 1_000), counted, ranking_log(served_ms, request="clean"))
        kafka.publish(visit(old_ms, pin=7), bought(served_ms + 1_000))
        with _stream(kafka, tmp_path) as first:
            _wait(kafka.is_under_way, first, kafka.acknowledged)
            mixed = ranking_log(now_ms, request="mixed", pin_versions=(VERSION_B, VERSION_A))
            # These are on their way when it dies; they are after the window of the first answer.
            kafka.publish(mixed, visit(old_ms, pin=7), visit(now_ms), bought(now_ms, value=1))
            first.send_signal(signal.SIGKILL)
            assert first.wait(10) == -signal.SIGKILL
        with _stream(kafka, tmp_path) as second:
            _wait(lambda: bool(kafka.attributed()), second, lambda: "no training row")
            _wait(lambda: bool(kafka.alerts()), second, lambda: "no alert")
            _wait(lambda: kafka.visits(7) == 2, second, lambda: f"{kafka.visits(7)} visits")
            second.send_signal(signal.SIGTERM)
            told, _ = second.communicate(timeout=20)
        attributed, alerts = kafka.attributed(), kafka.alerts()
        kafka.close()
    assert second.returncode == 0
    assert set(json.loads(told)) == {step.name for step in _STEPS}

    assert len({encode(one) for one in attributed}) == 1  # at least once, and never another
    row = attributed[0]
    assert (row.converted, row.conversion_kind, row.value_micros) == (True, "purchase", 3_000_000)
    assert (row.converted_at_ms, row.served_at_ms) == (served_ms + 1_000, served_ms)

    assert {(one.tier, one.kind, one.state) for one in alerts} == {("realtime", "mixed_responses", "raised")}
    # The answer and the release of before the kill are known still, and counted once.
    assert alerts[0].share == 0.5
    assert alerts[0].versions == {VERSION_A: 0.75, VERSION_B: 0.25}
    assert alerts[0].serving_version == VERSION_A
