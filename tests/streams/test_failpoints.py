"""A kill at each named place, once or twenty times: it was reached, and nothing came of it."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from tests.kafka_fixture import KafkaUnderTest
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.embedded_rows_on_a_topic import row
from tests.streams.enrichment_oracle import publish, read_all
from tests.streams.failpoints import BACKFILL_SITES, CUTTER_SITES, RECOVERY_SITES, SITES, WORKER_SITES
from tests.streams.history import check
from tests.streams.kill_suite.processes import Child, python
from tests.streams.kill_suite.record import Watch, history
from tests.streams.kill_suite.snapshots import SnapshotReader, judge

EVENTS, PINS, BATCH = 240, 40, 16
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.02

CHAINS = {
    "first": [*list(WORKER_SITES)[::2], "during_recovery", "during_backfill"],
    "second": [*list(WORKER_SITES)[1::2], "during_restore"],
    "cutter": list(CUTTER_SITES),
}
"""Each process of a chain takes up what the one before it was killed at, and is killed elsewhere."""

CHAINS_ON_KAFKA = {
    "worker": [
        "between_store_and_produce",
        "before_acknowledgement",
        "between_produce_and_commit",
        "after_commit",
        "during_flush",
        "during_restore",
    ],
    "cutter": ["before_ready", "after_publication"],
}
"""The same on a real Kafka where what Kafka has, and has not, makes the difference."""

ONCE = ("during_flush", "between_flush_and_checkpoint", *RECOVERY_SITES, *BACKFILL_SITES, *CUTTER_SITES)
"""Failpoints that a process may reach no more than once; the others are hit at one of the first times."""

REPEATS = [pytest.param(1, id="once"), pytest.param(20, id="20 times", marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Kill:
    """A process that ended at its failpoint, and what was wrong right after."""

    signal_number: int
    fired: str
    faults: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """A chain: its kills, and what was wrong when a last process had done the rest."""

    kills: dict[str, Kill]
    faults: dict[str, int]


class Chain:
    """Processes on one broker, over one disk, that are killed one after the other."""

    def __init__(self, names: list[str], seed: int, root: Path) -> None:
        self._names, self._root = names, root
        self._random = random.Random(seed)
        self._state, self._snapshots = root / "state", root / "snapshots"

    def run(self, settings: KafkaSettings) -> Outcome:
        """On a broker whose topics are empty."""
        self._root.mkdir(parents=True)
        cutting = set(self._names) <= set(CUTTER_SITES)
        return self._of_cutters(settings) if cutting else self._of_workers(settings)

    def run_embedded(self) -> Outcome:
        """On a broker of its own."""
        with EmbeddedBroker() as broker:
            return self.run(KafkaSettings(bootstrap_servers=broker.bootstrap_servers))

    def _child(self, module: str, arguments: list[str], options: dict[str, str]) -> Child:
        command = python(f"tests.streams.{module}", arguments, options)
        return Child(module, command, self._root / f"{module}.log")

    def _until_dead(
        self, name: str, module: str, arguments: list[str], options: dict[str, str]
    ) -> tuple[int, str]:
        """The signal that ended an armed process, and what it wrote before."""
        marker, nth = self._root / f"{name}.fired", 1 if name in ONCE else self._random.randint(1, 3)
        armed = {"failpoint": name, "nth": str(nth), "marker": str(marker)}
        child = self._child(module, arguments, options | armed)
        child.start()
        assert child.process is not None
        try:
            ended = -child.process.wait(WAIT_SECONDS)
            assert marker.exists(), f"{name} was not reached before the end with {ended}: {child.tail()}"
            return ended, marker.read_text()
        finally:
            child.kill()

    def _of_workers(self, settings: KafkaSettings) -> Outcome:
        arguments = [settings.bootstrap_servers, str(self._state), "worker", str(BATCH)]
        options, versions, kills = (
            {
                "flush-seconds": "0.1",
                "session-timeout-ms": "1000",
                "group": settings.enrichment_group,
            },
            [VERSION_A],
            dict[str, Kill](),
        )
        for name in self._names:
            publish(settings, EVENTS, PINS, self._random.randrange(1_000))
            if name == "during_restore":
                shutil.rmtree(self._state)
            if name in BACKFILL_SITES:
                options, versions = options | {"towers": "2"}, [VERSION_A, VERSION_B]
            killed = self._until_dead(name, "enrichment_process", arguments, options)
            # A tower that is still being filled in has not lost what it lacks.
            faults = (
                {}
                if name in BACKFILL_SITES
                else _faults(check(history(settings, versions)).counts(), UNDER_WAY)
            )
            kills[name] = Kill(*killed, faults)
        _enrich_all(settings, self._child("enrichment_process", arguments, options), versions)
        return Outcome(kills, _faults(check(history(settings, versions)).counts(), AT_THE_END))

    def _of_cutters(self, settings: KafkaSettings) -> Outcome:
        arguments = [settings.bootstrap_servers, str(self._snapshots)]
        options = {"every-seconds": "0.2", "group": settings.cutter_group}
        kills = dict[str, Kill]()
        with closing(SnapshotReader(self._snapshots)) as reader:
            for revision, name in enumerate(self._names):
                _publish_rows(settings, revision)
                killed = self._until_dead(name, "cutter_process", arguments, options)
                kills[name] = Kill(*killed, {})
            _publish_rows(settings, len(self._names))
            published = history(settings, [VERSION_A]).published
            ends = {row.partition: row.offset + 1 for row in published}
            cutter = self._child("cutter_process", arguments, options)
            cutter.start()
            _wait(cutter, lambda: all(reader.covers.get(number) == end for number, end in ends.items()))
            cutter.terminate()
        found = judge(reader, published)
        assert found.snapshots > 1
        assert len(reader.newest.rows) == PINS
        return Outcome(kills, _faults(asdict(found), ("snapshots",)))


AT_THE_END = ("rows", "keys", "repeated_rows", "repeated_letters", "stale_after_fresh", "reordered_per_key")
"""What a kill may leave: the same again, for a moment out of order."""

UNDER_WAY = (*AT_THE_END, "unprocessed", "stale_at_end")


def _faults(counts: dict[str, Any], allowed: tuple[str, ...]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count and name not in allowed}


def _publish_rows(settings: KafkaSettings, revision: int) -> None:
    producer = Producer(producer_config(settings))
    for pin in range(PINS):
        key, value = row(pin, revision)
        producer.produce(PIN_EMBEDDED.name, value, key=key)
    assert producer.flush(30) == 0


def _enrich_all(settings: KafkaSettings, worker: Child, versions: list[str]) -> None:
    """Let a worker do all there is to do, and stop it in good order."""
    worker.start()
    watch = Watch(settings)
    read = [one for topic in (PIN_CHANGED, PIN_AGGREGATED) for one in read_all(settings, topic.name)]
    ends = {(one.topic() or "", one.partition() or 0): (one.offset() or 0) + 1 for one in read}
    keys = len(versions) * PINS
    try:
        _wait(worker, lambda: all(watch.committed().get(where) == end for where, end in ends.items()))
        _wait(worker, lambda: len({one.key() for one in read_all(settings, PIN_EMBEDDED.name)}) == keys)
        worker.terminate()
    finally:
        watch.close()
        worker.kill()


def _wait(child: Child, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not done():
        assert child.running, f"{child.ended()}"
        assert time.monotonic() < deadline, f"no end in {WAIT_SECONDS} s: {child.tail()}"
        time.sleep(LOOK_SECONDS)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Future[Outcome]]]]:
    """Every chain, as often as asked for, under way: they mostly wait, so they run side by side."""
    root, times = tmp_path_factory.mktemp("failpoints"), int(request.param)
    with ThreadPoolExecutor(len(CHAINS)) as pool:
        yield {
            chain: [
                pool.submit(Chain(names, seed, root / f"{chain}-{seed}").run_embedded)
                for seed in range(times)
            ]
            for chain, names in CHAINS.items()
        }


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("outcomes", REPEATS, indirect=True)
@pytest.mark.parametrize("name", SITES)
def test_a_kill_at_a_failpoint_loses_nothing_and_leaves_nothing_twice(
    name: str, outcomes: dict[str, list[Future[Outcome]]]
) -> None:
    (chain,) = (chain for chain, names in CHAINS.items() if name in names)
    done = [one.result() for one in outcomes[chain]]
    # Each was reached, exactly once a chain.
    assert [one.kills[name] for one in done] == [Kill(signal.SIGKILL, name, {})] * len(done)
    assert [one.faults for one in done] == [{}] * len(done)


@pytest.mark.kafka
@pytest.mark.timeout(300)
@pytest.mark.parametrize("chain", CHAINS_ON_KAFKA)
def test_a_chain_of_kills_on_a_real_kafka_loses_nothing_and_leaves_nothing_twice(
    chain: str, empty_kafka: KafkaUnderTest, tmp_path: Path
) -> None:
    names = CHAINS_ON_KAFKA[chain]
    outcome = Chain(names, 0, tmp_path / chain).run(empty_kafka.settings(f"failpoints-{chain}"))
    assert outcome == Outcome({name: Kill(signal.SIGKILL, name, {}) for name in names}, {})


def test_every_failpoint_is_in_one_chain() -> None:
    assert sorted(name for names in CHAINS.values() for name in names) == sorted(SITES)
    assert len(SITES) == sum(map(len, (WORKER_SITES, RECOVERY_SITES, BACKFILL_SITES, CUTTER_SITES)))


@pytest.mark.parametrize("name", SITES)
def test_a_failpoint_is_where_the_list_says(name: str) -> None:
    assert callable(getattr(SITES[name].owner, SITES[name].attribute, None)), SITES[name]
