import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.codec import encode
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings
from streams.topic_reader import TopicReader
from tests.entrypoints.with_broker import ROOT, skewless
from tests.streams.raw_events import ranking_log


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker() as running:
        yield running.bootstrap_servers


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    log_line(tmp_path, "r1")
    return tmp_path


def log_line(data: Path, request: str) -> None:
    with (data / "logs" / "ranking-000001.jsonl").open("ab") as file:
        file.write(encode(ranking_log(1_000, request=request)) + b"\n")


def test_once_ships_what_is_there_and_a_second_time_nothing(data: Path, broker: str) -> None:
    first = skewless("ship", "--once", "--json", broker=broker, data_dir=data)
    second = skewless("ship", "--once", "--json", broker=broker, data_dir=data)

    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(first.stdout)["shipped"] == {"ranking.logged.v1": 1}
    assert json.loads(second.stdout)["shipped"] == {}


def test_it_follows_until_sigterm_and_ends_with_0(data: Path, broker: str) -> None:
    command = [sys.executable, "-m", "entrypoints.cli", "ship", "--json"]
    seen: list[bytes | None] = []
    environment = {"SKEWLESS_DATA_DIR": str(data), "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": broker}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
    ) as child:
        with TopicReader(KafkaSettings(bootstrap_servers=broker)) as reader:
            topic = "ranking.logged.v1"
            starts = {number: start for number, (start, _) in reader.spans(topic).items()}
            for batch in reader.follow(topic, starts, lambda: len(seen) >= 2):
                seen.extend(one.key for one in batch)
                if seen == [b"r1"]:
                    log_line(data, "r2")
        child.send_signal(signal.SIGTERM)
        printed = child.communicate(timeout=30)[0]

    assert seen == [b"r1", b"r2"]
    assert child.returncode == 0
    assert json.loads(printed)["shipped"] == {"ranking.logged.v1": 2}


def test_a_broker_that_is_away_is_unavailable(data: Path) -> None:
    assert skewless("ship", "--once", broker="", data_dir=data).returncode == 3
