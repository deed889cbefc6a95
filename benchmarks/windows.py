"""Day windows: events per second under Faust and of the step alone, and bytes of state per Pin on disk.

`python -m benchmarks.windows [--quick]`. KAFKA_HOME names a Kafka distribution; without it the embedded
broker is used. The rate under Faust comes from the group's committed offsets, read from outside of the
process, which is `skewless stream` as it is shipped.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from benchmarks.enrich_workload import Broker, broker
from benchmarks.report import report
from schemas.times import DAY_MS
from schemas.topics import ENGAGEMENT_OBSERVED, VISIT_OBSERVED
from streams.kafka import KafkaSettings, producer_config
from streams.step_source import KafkaStepSource
from streams.steps import RawEvent
from streams.window_store import WindowStore
from streams.windows import WindowSettings, WindowsStep

BAR_EVENTS_PER_SECOND = 5_000.0
BAR_BYTES_PER_PIN = 200.0
EVENTS_PER_PIN = 10
FIRST_DAY, DAYS = 20_000, 90
TAKE_EVENTS = 1000
PARTITIONS = 32
GROUP = "skewless-stream-windows"
TOPICS = (VISIT_OBSERVED.name, ENGAGEMENT_OBSERVED.name)
SEED = 7
_START_UP_SECONDS = 40.0


def main() -> int:
    """Measure, print, exit with 1 below a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="within 60 s, writes no result file")
    quick: bool = parser.parse_args().quick
    # The embedded broker keeps 5 MiB per partition, so everything has to fit into that.
    count, pins = (40_000, 20_000) if quick else (400_000, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        alone = _alone(data / "alone", pins)
        with broker(PARTITIONS) as place:
            under_faust = _under_faust(place, data / "stream", count)
    details: dict[str, Any] = {"broker": place.kind, "events": count, "pins": pins} | alone | under_faust
    rate = under_faust["faust_events_per_second"]
    ok = rate >= BAR_EVENTS_PER_SECOND and alone["bytes_per_pin"] <= BAR_BYTES_PER_PIN
    return report("windows", rate, "events/s", BAR_EVENTS_PER_SECOND, ok, details, quick=quick)


def _events(count: int, pins: int, day: int | None = None) -> Iterator[RawEvent]:
    """Events of both kinds over `pins` Pins, on days of the last 90 or on `day`, each with its id."""
    rng = np.random.default_rng(SEED if day is None else day)
    numbers = rng.integers(0, pins, count).tolist()
    days = rng.integers(FIRST_DAY, FIRST_DAY + DAYS, count).tolist() if day is None else [day] * count
    next_offset: dict[tuple[str, int], int] = {}
    for number, (pin, at) in enumerate(zip(numbers, days, strict=True)):
        visit = number % 2 == 0
        topic, key = TOPICS[number % 2], b"%d" % pin
        more = "" if visit else ',"user_id":1,"kind":"click"'
        value = f'{{"pin_id":{pin},"occurred_at_ms":{at * DAY_MS + number}{more}}}'.encode()
        partition = pin % PARTITIONS
        offset = next_offset.get((topic, partition), 0)
        next_offset[topic, partition] = offset + 1
        headers: list[tuple[str, bytes | None]] = [("ce_source", b"bench"), ("ce_id", b"%d" % number)]
        yield RawEvent(topic, partition, offset, (FIRST_DAY + DAYS) * DAY_MS, key, value, headers)


def _alone(path: Path, pins: int) -> dict[str, Any]:
    """The step without Kafka: its rate while the state grows, what it leaves on disk, a change of day."""
    count = pins * EVENTS_PER_PIN
    step = WindowsStep(WindowStore(path), WindowSettings(clock="wall", dedupe_days=0))
    step.owned([(topic, number) for topic in TOPICS for number in range(PARTITIONS)])
    step.tick((FIRST_DAY + DAYS - 1) * DAY_MS)
    events, folding, told = _events(count, pins), 0.0, 0
    for _ in range(0, count, TAKE_EVENTS):
        batch = [event for _, event in zip(range(TAKE_EVENTS), events, strict=False)]
        begun = time.perf_counter()
        told += len(step.apply(batch).outputs)
        folding += time.perf_counter() - begun
    step._store.settle()
    on_disk = sum(file.stat().st_size for file in path.rglob("*.sst"))
    begun, changed, ticks = time.perf_counter(), 0, 0
    while (result := step.tick((FIRST_DAY + DAYS) * DAY_MS)).more:
        changed, ticks = changed + len(result.outputs), ticks + 1
    sweeping = time.perf_counter() - begun
    step.close()
    return {
        "step_alone_events_per_second": round(count / folding),
        "step_rows": told,
        "events_per_pin": EVENTS_PER_PIN,
        "bytes_per_pin": round(on_disk / pins, 1),
        "bytes_per_pin_bar": BAR_BYTES_PER_PIN,
        "day_change_rows": changed,
        "day_change_ticks": ticks,
        "day_change_rows_per_second": round(changed / sweeping),
    }


def _under_faust(place: Broker, data: Path, count: int) -> dict[str, Any]:
    """`skewless stream` from its first commit to its last."""
    producer = Producer(producer_config(place.settings))
    for event in _events(count, 20_000):
        producer.produce(event.topic, event.value, key=event.key, headers=list(event.headers))
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not take the benchmark's events in 60 s")
    with _running(place.settings, data):
        return _watch(place.settings, count)


@contextmanager
def _running(settings: KafkaSettings, data: Path) -> Iterator[None]:
    environment = os.environ | {
        "SKEWLESS_DATA_DIR": str(data),
        "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
    }
    command = [sys.executable, "-m", "entrypoints.cli", "stream", "--step", "windows"]
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"skewless stream ended by itself with {process.returncode}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _watch(settings: KafkaSettings, count: int) -> dict[str, Any]:
    source = KafkaStepSource(settings, GROUP)
    partitions = source.partitions(TOPICS)
    begun = time.perf_counter()
    first: tuple[float, int] | None = None
    done, last = 0, begun
    while done < count and time.perf_counter() - begun < _START_UP_SECONDS + count / 1000:
        now = time.perf_counter()
        seen = sum(one.committed or 0 for one in source.standing(partitions).values())
        if seen > done:
            done, last = seen, now
            first = first or (now, seen)
        time.sleep(0.05)
    source.close()
    if first is None or last == first[0]:
        return {"faust_events_per_second": 0.0, "faust_complete": done >= count}
    rate = (done - first[1]) / (last - first[0])
    return {
        "faust_events_per_second": round(rate),
        "faust_events_measured": done - first[1],
        "faust_complete": done >= count,
    }


if __name__ == "__main__":
    sys.exit(main())
