"""`skewless stream` as a process on the embedded broker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer

from entrypoints.settings import Settings
from entrypoints.wiring_streams import FACTORIES, steps
from schemas.errors import Refused
from schemas.topics import VISIT_OBSERVED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.step_source import KafkaStepSource
from tests.streams.window_events import value_of

FAUST_PORT = 6066
DEADLINE_SECONDS = 40.0


@contextmanager
def _stream(broker: EmbeddedBroker, data: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    environment |= {
        "SKEWLESS_DATA_DIR": str(data),
        "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
    }
    command = [sys.executable, "-m", "entrypoints.cli", "stream", "--json", *arguments]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _committed(source: KafkaStepSource) -> int:
    standings = source.standing(source.partitions([VISIT_OBSERVED.name]))
    return sum(one.committed or 0 for one in standings.values())


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_runs_until_sigterm_and_opens_no_port_of_fausts(tmp_path: Path) -> None:
    if _is_open(FAUST_PORT):
        pytest.skip(f"something on this host listens on port {FAUST_PORT} already")
    with EmbeddedBroker() as broker, _stream(broker, tmp_path, "--step", "windows") as process:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        for number in range(200):
            producer.produce(VISIT_OBSERVED.name, value_of(number, 5, visit=True), key=b"%d" % number)
        assert producer.flush(10) == 0
        source = KafkaStepSource(settings, "skewless-stream-windows")
        deadline = time.monotonic() + DEADLINE_SECONDS
        while _committed(source) < 200:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            assert not _is_open(FAUST_PORT)
        source.close()
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(told) == {"windows": {"events": 200}}


def test_every_step_hears_of_its_partitions(tmp_path: Path) -> None:
    """One that does not speaks for those of other workers, and forgets rows of its own."""
    everything = {one.name: one for one in steps(Settings.load(data_dir=tmp_path))}
    for step in everything.values():
        lanes = [(topic, number) for topic in step.topics for number in (3, 4)]
        step.owned(lanes, behind=lanes[:1])
        step.owned(lanes)
        assert step.tick(1_000).outputs == []
    for name in ("windows", "attribution"):
        assert vars(everything[name])["_owned"] == {3, 4}
    for step in everything.values():
        step.close()


def test_the_steps_can_be_chosen(tmp_path: Path) -> None:
    made = steps(Settings.load(data_dir=tmp_path), only=["windows"])
    assert [one.name for one in made] == ["windows"]
    for one in made:
        one.close()
    everything = steps(Settings.load(data_dir=tmp_path), worker=1)
    assert [one.name for one in everything] == list(FACTORIES)
    for one in everything:
        one.close()


def test_a_step_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="unknown_step"):
        steps(Settings.load(data_dir=tmp_path), only=["window"])
