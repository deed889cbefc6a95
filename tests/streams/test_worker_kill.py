"""kill -9 of a real worker process at random points, against a fold in plain Python."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas.topics import PIN_AGGREGATED, PIN_CHANGED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, consumer_config
from tests.schemas.examples import VERSION_A
from tests.streams.enrichment_oracle import Oracle, check, publish

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 45.0


@contextmanager
def _worker(settings: KafkaSettings, state: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.streams.enrichment_process", settings.bootstrap_servers]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen([*command, str(state), name, "16"], cwd=ROOT, env=environment)
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


_SOURCE_PARTITIONS = [
    TopicPartition(topic.name, number)
    for topic in (PIN_CHANGED, PIN_AGGREGATED)
    for number in range(topic.partitions)
]


class _Watch:
    """Reads from outside how far the worker is."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._consumer = Consumer(consumer_config(settings, settings.enrichment_group))

    def done(self) -> int:
        """Events committed by the group, both sources together."""
        answer = self._consumer.committed(_SOURCE_PARTITIONS, timeout=10)
        return sum(max(0, one.offset) for one in answer)

    def close(self) -> None:
        self._consumer.close()


def _wait_for(worker: subprocess.Popen[bytes], watch: _Watch, events: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while watch.done() < events:
        assert worker.poll() is None, f"the worker ended with {worker.returncode}"
        assert time.monotonic() < deadline, f"the worker does not get beyond {watch.done()} of {events}"


def _kills(settings: KafkaSettings, state: Path, rng: random.Random, events: int, kills: int) -> None:
    watch = _Watch(settings)
    for number in range(kills):
        with _worker(settings, state, f"life-{number}") as worker:
            done = watch.done()
            assert done < events, "it was through before it could be killed"
            _wait_for(worker, watch, min(events, done + rng.randrange(1, events // (2 * kills))))
            worker.send_signal(signal.SIGKILL)
    with _worker(settings, state, "last-life") as worker:
        _wait_for(worker, watch, events)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(15) == 0
    watch.close()


@pytest.mark.parametrize(
    ("events", "kills"),
    [(3_000, 3), pytest.param(20_000, 12, marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_kills_at_random_points_lose_nothing_and_leave_the_right_state(
    tmp_path: Path, events: int, kills: int
) -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=1_500, heartbeat_interval_ms=300
        )
        publish(settings, events, pins=200, seed=events)
        _kills(settings, tmp_path / "state", random.Random(events), events, kills)
        counted = check(settings, Oracle().fold(settings), VERSION_A)
    assert counted["keys"] == 200
    assert counted["rows"] > counted["keys"]
    assert counted["poison"] > events / 100
