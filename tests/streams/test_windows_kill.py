"""kill -9 of real processes that run the day windows under Faust, against a count by hand."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.cloudevents import cloudevent_headers
from schemas.codec import decode
from schemas.errors import RetryableError
from schemas.events import PinAggregated
from schemas.times import DAY_MS
from schemas.topics import ENGAGEMENT_OBSERVED, PIN_AGGREGATED, VISIT_OBSERVED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, ensure_topics, producer_config
from streams.local_kafka import LocalKafka
from streams.step_source import KafkaStepSource

from ..kafka_fixture import SHORT_SESSIONS
from .enrichment_oracle import read_all
from .window_events import FIRST_DAY, Windows, oracle, value_of

ROOT = Path(__file__).parents[2]
GROUP = "skewless-stream-windows"
TOPICS = (VISIT_OBSERVED.name, ENGAGEMENT_OBSERVED.name)
LAST_DAY = 130
PINS = 60
DEADLINE_SECONDS = 60.0
Headers = list[tuple[str, str | bytes | None]]
_POISON = (b"", b"{", b'{"pin_id":1}')


EXIT_START_ME_AGAIN = 3


class _Process:
    """A process under a supervisor, which starts it again when it ends with 3, as an orchestrator would."""

    def __init__(self, settings: KafkaSettings, state: Path, name: str) -> None:
        command = [sys.executable, "-m", "tests.streams.stream_process", settings.bootstrap_servers]
        self._command = [*command, str(state), name]
        self._start()

    def _start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=environment)

    def check(self) -> None:
        """Start again what wants to be; anything else that ends by itself is a failure."""
        code = self._process.poll()
        if code == EXIT_START_ME_AGAIN:
            self._start()
        else:
            assert code is None, f"a process ended with {code}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15)


@contextmanager
def _process(settings: KafkaSettings, state: Path, name: str) -> Iterator[_Process]:
    process = _Process(settings, state, name)
    try:
        yield process
    finally:
        process.kill()


class _World:
    """What is on the topics, what it should come to, and how far the group is."""

    def __init__(self, settings: KafkaSettings, seed: int) -> None:
        self._settings, self._rng = settings, random.Random(seed)
        self._producer = Producer(producer_config(settings))
        self.events: list[tuple[int, bool, int]] = []
        self.sent = self.poison = 0
        self._source = KafkaStepSource(settings, GROUP)
        self._partitions = self._source.partitions(TOPICS)
        self.settled: Counter[tuple[str, int, int]] = Counter()

    def publish(self, count: int) -> None:
        """Events of all days, many of them late; some sent twice by their producer, some poison."""
        for _ in range(count):
            pin, visit = self._rng.randrange(PINS), self._rng.random() < 0.5
            day = min(LAST_DAY - 1, max(0, len(self.events) * LAST_DAY // 3000 - self._rng.randrange(40)))
            self._send(pin, visit, day)
        assert self._producer.flush(30) == 0

    def _send(self, pin: int, visit: bool, day: int) -> None:
        self.events.append((pin, visit, day))
        topic = VISIT_OBSERVED.name if visit else ENGAGEMENT_OBSERVED.name
        name = f"event-{len(self.events)}"
        headers: Headers = list(
            cloudevent_headers(event_id=name, source="shop", type_name=topic, time_iso="")
        )
        for _ in range(2 if self._rng.random() < 0.05 else 1):
            self._produce(topic, pin, value_of(pin, day, visit=visit), headers)
        if self._rng.random() < 0.02:
            self.poison += 1
            self._produce(topic, pin, self._rng.choice(_POISON), [])

    def _produce(self, topic: str, pin: int, value: bytes, headers: Headers) -> None:
        self._producer.produce(topic, value, key=b"%d" % pin, headers=headers)
        self._producer.poll(0)
        self.sent += 1

    def end_the_last_day(self) -> None:
        """One event of a later day per partition and more, so that every worker knows that day."""
        for pin in range(1_000, 1_400):
            self._send(pin, True, LAST_DAY)
        assert self._producer.flush(30) == 0

    def done(self) -> int:
        """Events acknowledged by the group; none, while its coordinator is still starting."""
        try:
            standing = self._source.standing(self._partitions)
        except RetryableError:
            return 0
        return sum(one.committed or 0 for one in standing.values())

    def told(self) -> dict[int, tuple[int, Windows]]:
        """The last row of each Pin, in offset order."""
        rows: dict[int, tuple[int, Windows]] = {}
        for message in read_all(self._settings, PIN_AGGREGATED.name):
            row = decode(PinAggregated, message.value())
            windows = (row.offsite_visits or [], row.engagements or [])
            rows[row.pin_id] = (row.occurred_at_ms // DAY_MS - FIRST_DAY, windows)
        return rows

    def wrong(self) -> dict[int, tuple[object, object]]:
        """Pins whose last row is not what a count by hand says: what came, what should have."""
        told, nothing = self.told(), ([0] * 4, [0] * 4)
        wanted = {pin: oracle(self.events, pin, LAST_DAY) for pin in range(PINS)}
        return {
            pin: (told.get(pin), windows)
            for pin, windows in wanted.items()
            if told.get(pin, (0, nothing))[1] != windows
        }

    def letters(self) -> Counter[tuple[str, int, int]]:
        """How many letters each poison message has, by its place."""
        places: Counter[tuple[str, int, int]] = Counter()
        for topic in TOPICS:
            for letter in read_all(self._settings, f"{topic}.dlq"):
                story: dict[str, Any] = dict(letter.headers() or [])
                assert story["x-dlq-stage"] == b"windows"
                places[topic, int(story["x-dlq-partition"]), int(story["x-dlq-offset"])] += 1
        return places

    def note_settled_letters(self) -> None:
        """Remember the letters of what the group is done with; nobody runs now, and no more may come."""
        had = {place: one.committed or 0 for place, one in self._source.standing(self._partitions).items()}
        for (topic, partition, offset), count in self.letters().items():
            if offset < had[topic, partition]:
                self.settled[topic, partition, offset] = count

    def close(self) -> None:
        self._source.close()


def _wait(what: Callable[[], bool], processes: list[_Process], why: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        for process in processes:
            process.check()
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


@contextmanager
def _world(seed: int, bootstrap_servers: str | None = None) -> Iterator[_World]:
    """On an embedded broker, or on a running one whose topics are empty."""
    with ExitStack() as stack:
        address = bootstrap_servers or stack.enter_context(EmbeddedBroker()).bootstrap_servers
        world = _World(KafkaSettings(bootstrap_servers=address), seed)
        try:
            yield world
        finally:
            world.close()


def _finish(world: _World, process: _Process) -> None:
    _wait(lambda: world.done() == world.sent, [process], lambda: f"{world.done()} of {world.sent}")
    _wait(lambda: not world.wrong(), [process], world.wrong)
    letters = world.letters()
    assert len(letters) == world.poison > 0
    assert {place: letters[place] for place in world.settled} == world.settled
    assert process.stop() == 0


def _live_and_die(world: _World, state: Path, name: str, events: int) -> None:
    """Start a process, let it work off so many events, kill it at a moment of its own."""
    with _process(world._settings, state, name) as process:
        until = min(world.sent - 1, world.done() + events)
        _wait(lambda: world.done() >= until, [process], lambda: f"{world.done()} of {until}")
        process.kill()
        world.note_settled_letters()


@pytest.mark.parametrize(
    ("events", "kills"),
    [(2_000, 2), pytest.param(20_000, 20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_kills_at_random_points_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, events: int, kills: int
) -> None:
    _kill_again_and_again(tmp_path, events, kills)


@pytest.mark.kafka
def test_the_same_on_a_real_kafka(tmp_path: Path, kafka_home: Path) -> None:
    with LocalKafka(kafka_home, tmp_path / "kafka", SHORT_SESSIONS) as local:
        ensure_topics(KafkaSettings(bootstrap_servers=local.bootstrap_servers))
        _kill_again_and_again(tmp_path, 2_000, 2, local.bootstrap_servers)


def _kill_again_and_again(
    folder: Path, events: int, kills: int, bootstrap_servers: str | None = None
) -> None:
    rng = random.Random(events)
    with _world(events, bootstrap_servers) as world:
        world.publish(events)
        for number in range(kills):
            _live_and_die(world, folder, f"life-{number}", rng.randrange(1, events // (2 * kills)))
        world.end_the_last_day()
        with _process(world._settings, folder, "last-life") as process:
            _finish(world, process)


def test_a_lost_disk_is_made_good_from_the_topics(tmp_path: Path) -> None:
    with _world(seed=2) as world:
        world.publish(1_000)
        _live_and_die(world, tmp_path, "first", 500)
        assert world.settled
        shutil.rmtree(tmp_path / "windows")
        world.end_the_last_day()
        with _process(world._settings, tmp_path, "second") as process:
            _finish(world, process)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_partitions_move_between_two_processes_and_back(tmp_path: Path) -> None:
    _move_partitions(tmp_path)


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_partitions_move_on_a_real_kafka(tmp_path: Path, kafka_home: Path) -> None:
    with LocalKafka(kafka_home, tmp_path / "kafka", SHORT_SESSIONS) as local:
        ensure_topics(KafkaSettings(bootstrap_servers=local.bootstrap_servers))
        _move_partitions(tmp_path, local.bootstrap_servers)


def _move_partitions(folder: Path, bootstrap_servers: str | None = None) -> None:
    with _world(3, bootstrap_servers) as world, ExitStack() as running:
        world.publish(1_000)
        first = running.enter_context(_process(world._settings, folder / "first", "first"))
        _wait(lambda: world.done() >= 300, [first], world.done)
        second = running.enter_context(_process(world._settings, folder / "second", "second"))
        for _ in range(3):
            # Traffic in both halves while the group forms anew.
            world.publish(500)
            _wait(lambda: world.done() == world.sent, [first, second], lambda: (world.done(), world.sent))
        first.kill()
        world.publish(500)
        world.end_the_last_day()
        _finish(world, second)
