import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from schemas.codec import encode
from schemas.errors import Refused, RetryableError
from schemas.topics import Topic
from streams.dead_letters import Headers
from streams.embedded_broker import EmbeddedBroker
from streams.journals import Line, RankingJournal, journals
from streams.kafka import KafkaSettings
from streams.ship_sender import KafkaSender
from streams.shipping import JournalShipper, ShipCounts, ShipperSettings
from streams.topic_reader import TopicReader
from tests.streams.raw_events import ranking_log
from tests.streams.test_journals import move


@dataclass
class FakeSender:
    """A broker in a list; `refusals` waits fail before the next one succeeds."""

    cluster: str = "cluster-1"
    refusals: int = 0
    has: list[tuple[str, bytes | None, bytes]] = field(default_factory=list)
    headers: list[dict[str, bytes | None]] = field(default_factory=list)
    queued: list[tuple[str, bytes | None, bytes]] = field(default_factory=list)

    def cluster_id(self) -> str:
        return self.cluster

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers) -> None:
        self.queued.append((topic, key, value))
        self.headers.append(dict(headers))

    def wait(self) -> None:
        queued, self.queued = self.queued, []
        if self.refusals:
            self.refusals -= 1
            raise RetryableError("away")
        self.has += queued


class World:
    """A data directory with its journals."""

    def __init__(self, root: Path) -> None:
        self.logs, self.releases, self.positions = root / "logs", root / "releases", root / "ship" / "at.json"
        self.logs.mkdir()
        self.releases.mkdir()
        self.sender = FakeSender()

    def shipper(self) -> JournalShipper:
        settings = ShipperSettings(self.positions, "//host/skewless")
        return JournalShipper(journals(self.logs, self.releases), self.sender, settings)

    def log(self, *requests: str, file: int = 1, tail: bytes = b"") -> None:
        with (self.logs / f"ranking-{file:06d}.jsonl").open("ab") as out:
            for request in requests:
                out.write(encode(ranking_log(1_000, request=request)) + b"\n")
            out.write(tail)

    def keys(self) -> list[bytes | None]:
        return [key for _, key, _ in self.sender.has]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_line_goes_to_its_topic_under_its_key_with_cloudevents_headers(world: World) -> None:
    world.log("r1")
    (world.releases / "audit.jsonl").write_bytes(encode(move("A", None)) + b"\n")
    (world.releases / "CURRENT").write_text("A\n")

    assert world.shipper().ship_once() == 2

    assert world.sender.has == [
        ("release.published.v1", b"A", encode(move("A", None))),
        ("ranking.logged.v1", b"r1", encode(ranking_log(1_000, request="r1"))),
    ]
    assert {name: world.sender.headers[1][name] for name in ("ce_id", "ce_source", "ce_type", "ce_time")} == {
        "ce_id": b"ranking-000001.jsonl:0",
        "ce_source": b"//host/skewless",
        "ce_type": b"ranking.logged.v1",
        "ce_time": b"1970-01-01T00:00:01.000+00:00",
    }


def test_a_new_shipper_goes_on_where_the_last_one_stopped(world: World) -> None:
    world.log("r1", "r2")
    world.shipper().ship_once()
    world.log("r3")
    world.log("r4", file=2)
    world.log("r5")

    world.shipper().ship_once()

    assert world.keys() == [b"r1", b"r2", b"r3", b"r5", b"r4"]


def test_what_the_broker_did_not_take_is_sent_again(world: World) -> None:
    world.log("r1", "r2")
    world.sender.refusals = 1
    shipper = world.shipper()
    with pytest.raises(RetryableError):
        shipper.ship_once()
    first = dict(shipper.counts.shipped)
    shipper.ship_once()

    assert first == {}
    assert (world.keys(), shipper.counts.shipped) == ([b"r1", b"r2"], {"ranking.logged.v1": 2})


def test_a_broker_that_is_away_is_waited_for_longer_each_time(world: World) -> None:
    world.log("r1")
    world.sender.refusals = 7
    shipper, waits = world.shipper(), list[float]()

    shipper.run(lambda: bool(world.sender.has), waits.append)

    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 0.2]
    assert shipper.counts.retries == 7


def test_a_damaged_line_is_dead_lettered_with_its_place_and_stops_nothing(world: World) -> None:
    world.log("r1", tail=b'{"request_id": 5}\n')
    world.log("r2")
    shipper = world.shipper()
    shipper.ship_once()

    offset = len(encode(ranking_log(1_000, request="r1"))) + 1
    assert world.sender.has[1] == ("ranking.logged.v1.dlq", None, b'{"request_id": 5}')
    story = world.sender.headers[1]
    assert (story["x-dlq-reason"], story["x-dlq-stage"]) == (b"schema_invalid", b"ship")
    assert (story["x-dlq-file"], story["x-dlq-offset"]) == (b"ranking-000001.jsonl", b"%d" % offset)
    assert world.keys()[2] == b"r2"
    assert shipper.counts.dead_letters == 1


def test_a_half_written_last_line_is_sent_when_it_is_whole_and_counted_as_waiting_until_then(
    world: World,
) -> None:
    text = encode(ranking_log(1_000, request="r2")) + b"\n"
    world.log("r1", tail=text[:40])
    shipper = world.shipper()
    shipper.ship_once()
    waiting = shipper.counts.waiting_bytes
    world.log(tail=text[40:])
    shipper.ship_once()

    assert (waiting, shipper.counts.waiting_bytes) == (40, 0)
    assert world.keys() == [b"r1", b"r2"]


def test_a_torn_line_of_a_killed_server_holds_no_later_file_back(world: World) -> None:
    world.log("r1", tail=b'{"request')
    world.log("r2", file=2)

    world.shipper().ship_once()

    assert world.keys() == [b"r1", b"r2"]


def test_a_file_that_was_replaced_is_shipped_from_its_beginning(world: World) -> None:
    world.log("r1", "r2")
    shipper = world.shipper()
    shipper.ship_once()
    (world.logs / "ranking-000001.jsonl").unlink()
    world.log("r3", "r4", "r5")

    shipper.ship_once()

    assert world.keys() == [b"r1", b"r2", b"r3", b"r4", b"r5"]


def test_another_cluster_gets_everything(world: World) -> None:
    world.log("r1")
    world.shipper().ship_once()
    world.sender.cluster = "cluster-2"

    world.shipper().ship_once()

    assert world.keys() == [b"r1", b"r1"]


@dataclass
class ListedJournal:
    """Ranking logs; counts how often they are listed, and does something after each time."""

    logs: RankingJournal
    listed: int = 0
    after: Callable[[], object] = lambda: None

    @property
    def topic(self) -> Topic:
        return self.logs.topic

    def files(self) -> list[Path]:
        self.listed += 1
        paths = self.logs.files()
        self.after()
        return paths

    def lines(self, path: Path, offset: int) -> list[Line]:
        return self.logs.lines(path, offset)


def test_a_journal_is_listed_once_however_much_there_is_to_ship(world: World) -> None:
    journal = ListedJournal(RankingJournal(world.logs))
    shipper = JournalShipper([journal], world.sender, ShipperSettings(world.positions, "//host/skewless"))
    world.log("r1", "r2")

    assert shipper.ship_once() == 2
    assert (journal.listed, shipper.counts.waiting_bytes) == (1, 0)


def test_a_file_that_goes_after_it_was_listed_is_forgotten(world: World) -> None:
    journal = ListedJournal(RankingJournal(world.logs))
    shipper = JournalShipper([journal], world.sender, ShipperSettings(world.positions, "//host/skewless"))
    world.log("r1")
    shipper.ship_once()
    world.log("r2", file=2)
    journal.after = (world.logs / "ranking-000001.jsonl").unlink
    shipper.ship_once()

    assert world.keys() == [b"r1", b"r2"]
    assert b"000001" not in world.positions.read_bytes()


def test_a_deleted_file_is_forgotten(world: World) -> None:
    world.log("r1")
    shipper = world.shipper()
    shipper.ship_once()
    (world.logs / "ranking-000001.jsonl").unlink()
    world.log("r2", file=2)
    shipper.ship_once()

    assert b"000001" not in world.positions.read_bytes()


def test_once_comes_to_an_end_while_a_server_writes_on(world: World) -> None:
    world.log("r1", "r2")
    shipper, written = world.shipper(), 0

    def write(_: ShipCounts) -> None:
        nonlocal written
        written += 1
        assert written < 100
        world.log(f"later {written}")
        world.log(f"other {written}", file=2)

    first = shipper.ship_once(write)
    second = shipper.ship_once(write)

    assert (first, second) == (2, 2)
    assert world.keys() == [b"r1", b"r2", b"later 1", b"other 1"]


def test_a_signal_is_heard_while_there_is_more_to_send_and_nothing_is_lost(world: World) -> None:
    for number in range(1, 4):
        world.log(f"r{number}", file=number)
    shipper = world.shipper()

    def stopped() -> bool:
        # From the moment that the first line is on its way.
        return bool(world.sender.queued or world.sender.has)

    shipper.ship_once(stopped=stopped)
    before = world.keys()
    shipper.run(stopped, lambda _: None)
    world.shipper().ship_once()

    assert before == [b"r1"]
    assert world.keys() == [b"r1", b"r2", b"r3"]


def test_a_server_that_always_has_another_line_does_not_keep_it_from_ending(world: World) -> None:
    world.log("r0")
    rounds = 0

    def write(_: ShipCounts) -> None:
        nonlocal rounds
        rounds += 1
        assert rounds < 100
        world.log(f"r{rounds}")

    world.shipper().run(lambda: rounds >= 3, lambda _: None, write)

    assert rounds == 3


def test_a_damaged_position_file_is_refused_by_name(world: World) -> None:
    world.positions.parent.mkdir()
    world.positions.write_text("{}")

    with pytest.raises(Refused, match=r"at\.json"):
        world.shipper().ship_once()


def test_two_shippers_on_one_position_file_are_one_too_many(world: World) -> None:
    with world.shipper().locked(), pytest.raises(Refused, match="already_shipping"), world.shipper().locked():
        pass
    with world.shipper().locked():
        pass


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker() as broker:
        yield KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


_CHILD = """
import sys
from pathlib import Path
from streams.journals import journals
from streams.kafka import KafkaSettings
from streams.ship_sender import KafkaSender
from streams.shipping import JournalShipper, ShipperSettings

root, broker = Path(sys.argv[1]), sys.argv[2]
sender = KafkaSender(KafkaSettings(bootstrap_servers=broker))
settings = ShipperSettings(root / "ship" / "at.json", "//h")
shipper = JournalShipper(journals(root / "logs", root / "releases"), sender, settings)
print("ready", flush=True)
shipper.run(lambda: False, lambda seconds: None, lambda counts: print(counts.shipped_bytes, flush=True))
"""


def test_kill_9_loses_no_line(world: World, tmp_path: Path, kafka: KafkaSettings) -> None:
    wanted: list[str] = []
    for life in range(6):
        command = [sys.executable, "-c", _CHILD, str(tmp_path), kafka.bootstrap_servers]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
            assert child.stdout is not None
            child.stdout.readline()
            # Killed while it is at work: after the first round, with more lines there than one round takes.
            fresh = [f"{life}-{number}" for number in range(300)]
            world.log(*fresh, file=life + 1)
            wanted += fresh
            child.stdout.readline()
            more = [f"{life}+{number}" for number in range(300)]
            world.log(*more, file=life + 1, tail=b'{"torn' if life == 3 else b"")
            wanted += more
            os.kill(child.pid, signal.SIGKILL)
    sender = KafkaSender(kafka)
    settings = ShipperSettings(world.positions, "//h")
    JournalShipper(journals(world.logs, world.releases), sender, settings).ship_once()
    sender.close()

    with TopicReader(kafka) as reader:
        spans = reader.spans("ranking.logged.v1")
        keys = [one.key for batch in reader.read("ranking.logged.v1", spans) for one in batch]
    assert {(key or b"").decode() for key in keys} == set(wanted)
    assert len(keys) - len(wanted) < len(wanted)


def test_a_broker_out_of_reach_is_said_and_can_be_tried_again() -> None:
    sender = KafkaSender(KafkaSettings(bootstrap_servers="127.0.0.1:1"), ask_seconds=0.2)
    try:
        with pytest.raises(RetryableError, match="127"):
            sender.cluster_id()
    finally:
        sender.close()
