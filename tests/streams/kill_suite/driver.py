"""Runs a plan: load, incidents, recoveries; then everything is stopped and judged."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from streams.kafka import KafkaSettings
from tests.schemas.examples import VERSION_A
from tests.streams.history import Anomalies, check
from tests.streams.kill_suite.plan import Act, Plan
from tests.streams.kill_suite.processes import Child, Fleet
from tests.streams.kill_suite.record import Watch, history
from tests.streams.kill_suite.report import Recovery, Report
from tests.streams.kill_suite.snapshots import SnapshotFaults, SnapshotReader, judge
from tests.streams.kill_suite.workload import Ends, Workload

DEADLINE_SECONDS = 90.0
_LOOK_SECONDS = 0.02
_SUPERVISOR_SECONDS = 0.3
_HAS_PARTITIONS = "assigned "
"""What a worker says in its log when it has joined."""
_PRODUCT_SESSION_MS = KafkaSettings().session_timeout_ms


class Killable(Protocol):
    """A broker that can be killed; `streams.local_kafka.LocalKafka` is one."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    settings: KafkaSettings
    kind: str
    root: Path
    broker: Killable | None = None


def run(plan: Plan, place: Place) -> Report:
    """Carry out a plan. AssertionError when the group stands still or a process does not stop in order."""
    one = _Run(plan, place)
    try:
        return one.through()
    finally:
        one.close()


class _Run:
    def __init__(self, plan: Plan, place: Place) -> None:
        self._plan, self._place = plan, place
        self._random = random.Random(plan.seed)
        self._fleet = Fleet(place.settings, plan, place.root)
        self._reader = SnapshotReader(self._fleet.snapshots)
        self._watch = Watch(place.settings)
        self._load = Workload(place.settings, plan)
        self._share = plan.events // (1 + sum(plan.acts.values()))
        self._recoveries: list[Recovery] = []
        self._drains: list[float] = []
        self._acts: dict[Act, Callable[[], None]] = {
            Act.KILL: lambda: self._kill(Act.KILL),
            Act.KILL_TWICE: lambda: self._kill(Act.KILL_TWICE, again=True),
            Act.LOSE_DISK: lambda: self._kill(Act.LOSE_DISK, lose_disk=True),
            Act.KILL_SLOWLY_NOTICED: self._kill_slowly_noticed,
            Act.ZOMBIE: self._zombie,
            Act.DRAIN: self._drain,
            Act.KILL_CUTTER: self._kill_cutter,
            Act.KILL_BROKER: self._kill_broker,
        }

    def through(self) -> Report:
        """The whole run."""
        begun = time.monotonic()
        incidents = self._plan.schedule()
        self._fleet.scale(self._plan.workers[0])
        if self._fleet.cutter is not None:
            self._fleet.cutter.start()
        for number, act in enumerate(incidents):
            self._load.allow(self._share * (number + 1))
            self._resize()
            self._until_some_progress()
            self._acts[act]()
        self._load.allow(self._plan.events)
        self._load.finish()
        self._until_committed(self._load.delivered)
        self._stop()
        anomalies, snapshots = self._judged()
        return Report(
            plan=self._plan,
            broker=self._place.kind,
            seconds=time.monotonic() - begun,
            anomalies=anomalies,
            snapshots=snapshots,
            recoveries=self._recoveries,
            drains_seconds=self._drains,
            exits=self._fleet.exits,
        )

    def close(self) -> None:
        self._fleet.close()
        self._load.close()
        self._watch.close()
        self._reader.close()

    def _judged(self) -> tuple[Anomalies, SnapshotFaults]:
        made = history(self._place.settings, [VERSION_A])
        return check(made), judge(self._reader, made.published)

    def _stop(self) -> None:
        """SIGTERM to all; the last snapshot has everything."""
        for worker in self._fleet.running:
            self._drains.append(worker.terminate())
        if self._fleet.cutter is not None:
            rows = history(self._place.settings, [VERSION_A]).published
            ends = {row.partition: row.offset + 1 for row in rows}
            self._until(lambda: self._reader.covers == {n: ends.get(n, 0) for n in self._reader.covers})
            self._fleet.cutter.terminate()
        self._reader.close()

    def _resize(self) -> None:
        """At times, more or fewer workers."""
        if self._random.random() < 0.3 or len(self._fleet.running) < self._plan.workers[0]:
            self._fleet.scale(self._random.randint(*self._plan.workers))

    def _until_some_progress(self) -> None:
        """To a random point of the load that is under way."""
        wanted = _total(self._watch.committed()) + self._random.randrange(1, self._share // 2)
        self._until(lambda: _total(self._watch.committed()) >= min(wanted, self._load.acknowledged))
        time.sleep(self._random.random() * _LOOK_SECONDS)

    def _kill(self, act: Act, *, again: bool = False, lose_disk: bool = False) -> None:
        victim = self._random.choice(self._fleet.running)
        begun = self._killed(victim, lose_disk=lose_disk)
        if again:
            time.sleep(self._random.random() * self._plan.session_timeout_ms / 500)
            begun = self._killed(victim, lose_disk=lose_disk)
        self._recovered(act, begun)

    def _killed(self, victim: Child, *, lose_disk: bool = False) -> float:
        victim.kill()
        begun = time.monotonic()
        if lose_disk:
            self._fleet.lose_disk(victim)
        time.sleep(self._random.random() * _SUPERVISOR_SECONDS)
        victim.start()
        return begun

    def _kill_slowly_noticed(self) -> None:
        """The victim is a member of the product's patience: nobody knows for 10 s that it is dead."""
        victim = self._random.choice(self._fleet.running)
        patient = [
            f"--session-timeout-ms={_PRODUCT_SESSION_MS}" if one.startswith("--session") else one
            for one in victim.command
        ]
        impatient, victim.command = victim.command, patient
        victim.terminate()
        victim.start()
        self._until(lambda: victim.wrote(_HAS_PARTITIONS))
        victim.kill()
        begun = time.monotonic()
        victim.command = impatient
        victim.start()
        self._recovered(Act.KILL_SLOWLY_NOTICED, begun)

    def _zombie(self) -> None:
        """Stopped for longer than its session, until the others have taken over; then it wakes up."""
        victim = self._random.choice(self._fleet.running)
        if len(self._fleet.running) < 2:
            self._fleet.scale(2)
            self._until_committed(self._load.delivered)
        victim.pause()
        begun = time.monotonic()
        self._recovered(Act.ZOMBIE, begun)
        self._until(lambda: time.monotonic() - begun > 1.2 * self._plan.session_timeout_ms / 1000)
        victim.wake()

    def _drain(self) -> None:
        victim = self._random.choice(self._fleet.running)
        begun = time.monotonic()
        self._drains.append(victim.terminate())
        victim.start()
        self._recovered(Act.DRAIN, begun)

    def _kill_cutter(self) -> None:
        assert self._fleet.cutter is not None, "the plan has no cutter"
        self._fleet.cutter.kill()
        self._fleet.cutter.start()

    def _kill_broker(self) -> None:
        assert self._place.broker is not None, "this broker cannot be killed"
        self._place.broker.kill()
        begun = time.monotonic()
        self._place.broker.start()
        self._recovered(Act.KILL_BROKER, begun)

    def _recovered(self, act: Act, begun: float) -> None:
        """Wait until all is committed that was published by now and in a moment from now.

        That moment puts events on everybody's partitions, the victim's too.
        """
        wanted = min(self._plan.events, self._load.acknowledged + self._share // 4)
        self._load.allow(wanted)
        self._until(lambda: self._load.acknowledged >= wanted)
        self._until_committed(self._load.delivered)
        self._recoveries.append(Recovery(act.value, time.monotonic() - begun))

    def _until_committed(self, ends: Ends) -> None:
        self._until(lambda: not _behind(self._watch.committed(), ends))

    def _until(self, done: Callable[[], bool]) -> None:
        """Look until `done`, supervising the fleet meanwhile."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not done():
            self._fleet.supervise()
            if time.monotonic() > deadline:
                raise AssertionError(self._stuck())
            time.sleep(_LOOK_SECONDS)

    def _stuck(self) -> str:
        behind = _behind(self._watch.committed(), self._load.delivered)
        logs = "\n".join(f"== {one.name}\n{one.tail()}" for one in self._fleet.workers)
        done = [f"{one.act} {one.seconds:.1f} s" for one in self._recoveries]
        return f"{logs}\nno end in {DEADLINE_SECONDS:.0f} s after {done}; behind: {behind}"


def _total(ends: Ends) -> int:
    return sum(ends.values())


def _behind(committed: Ends, wanted: Ends) -> Ends:
    """How many messages of each partition are not committed."""
    return {
        where: offset - committed.get(where, 0)
        for where, offset in wanted.items()
        if committed.get(where, 0) < offset
    }


def small(plan: Plan, events: int) -> Plan:
    """The same plan with so many events and in proportion fewer incidents of each kind, at least one."""
    share = events / plan.events
    acts = {act: max(1, round(count * share)) for act, count in plan.acts.items()}
    return replace(plan, events=events, acts=acts)
