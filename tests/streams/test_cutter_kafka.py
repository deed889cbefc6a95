"""The cutter on the embedded broker, in a process that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from index.snapshots import list_snapshots, read_snapshot
from schemas.errors import RetryableError
from schemas.topics import PIN_CHANGED, PIN_EMBEDDED
from streams.embedded_broker import EmbeddedBroker
from streams.embedded_topic import KafkaEmbeddedTopic
from streams.kafka import KafkaSettings, consumer_config, producer_config

from .embedded_rows_on_a_topic import Room, read_all, row

ROOT = Path(__file__).parents[2]
HOURS = 6
ROWS_AN_HOUR = 400

_CUTTER = """
import sys
from pathlib import Path
from confluent_kafka import Consumer
from streams.cut_policy import EventTimeCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings
from streams.embedded_topic import KafkaEmbeddedTopic
from streams.kafka import KafkaSettings, consumer_config
from tests.streams.embedded_rows_on_a_topic import Letterbox, tower
settings = KafkaSettings(bootstrap_servers=sys.argv[1])
consumer = Consumer(consumer_config(settings, settings.cutter_group))
around = CutterSurroundings(
    live=lambda: [tower()],
    clock_ms=lambda: 0,
    outlet=Letterbox(),
    on_snapshot=lambda manifest: print(manifest.snapshot_id, flush=True),
)
where = CutterSettings(Path(sys.argv[2]), batch_size=50)
cutter = Cutter(KafkaEmbeddedTopic(consumer), where, EventTimeCut(), around)
cutter.run(should_stop=lambda: False)
"""


def _rows() -> list[tuple[bytes, bytes]]:
    """Six hours of rows of 37 Pins, and one of a later hour, which closes the sixth."""
    count = HOURS * ROWS_AN_HOUR
    return [row(n % 37, n, hour=n / ROWS_AN_HOUR) for n in range(count)] + [row(1, count, hour=HOURS + 2)]


def _run_until(bootstrap: str, root: Path, snapshot_id: str) -> list[str]:
    """Start a cutter, kill it when it has announced this snapshot or a later one (ids sort by hour)."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CUTTER, bootstrap, str(root)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    told = [""]
    with process.stdout:
        while told[-1] < snapshot_id:
            told.append(process.stdout.readline().strip())
        process.kill()
    process.wait()
    return told[1:]


def test_a_killed_cutter_leaves_the_snapshots_of_one_that_was_not(tmp_path: Path) -> None:
    room = Room(tmp_path / "whole")
    for key, value in _rows():
        room.topic.put(key, value, partition=0)
    read_all(room.cutter(batch_size=50))
    whole = list_snapshots(tmp_path / "whole")
    assert len(whole) == HOURS

    with EmbeddedBroker([(PIN_EMBEDDED.name, 1)]) as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        for key, value in _rows():
            producer.produce(PIN_EMBEDDED.name, value=value, key=key)
        producer.flush()
        # Each one tells again which snapshot it starts from.
        told = [
            snapshot_id
            for until in (whole[1], whole[3], whole[5])
            for snapshot_id in _run_until(broker.bootstrap_servers, tmp_path / "killed", until)
        ]
        consumer = Consumer(consumer_config(settings, settings.cutter_group))
        (committed,) = consumer.committed([TopicPartition(PIN_EMBEDDED.name, 0)], timeout=10)
        consumer.close()

    assert list_snapshots(tmp_path / "killed") == whole
    assert set(told) == set(whole)
    for snapshot_id in whole:
        for path in (tmp_path / "whole" / snapshot_id).iterdir():
            assert path.read_bytes() == (tmp_path / "killed" / snapshot_id / path.name).read_bytes()
    manifest, _ = read_snapshot(tmp_path / "killed", whole[-1])
    assert manifest.offsets == {PIN_EMBEDDED.name: {0: HOURS * ROWS_AN_HOUR}}
    assert committed.offset == HOURS * ROWS_AN_HOUR


def test_without_its_topic_the_cutter_says_so_instead_of_reading_nothing() -> None:
    with EmbeddedBroker([(PIN_CHANGED.name, 1)]) as broker:
        consumer = Consumer(consumer_config(KafkaSettings(bootstrap_servers=broker.bootstrap_servers), "g"))
        with pytest.raises(RetryableError, match="no such topic"):
            KafkaEmbeddedTopic(consumer).ends()
        consumer.close()
