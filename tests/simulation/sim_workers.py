"""The workers of one run: the real enrichment worker in simulated processes, started anew when they end."""

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, cast

from prometheus_client import CollectorRegistry

from schemas.errors import RetryableError
from schemas.tiers import BUCKETS, Tier, Tiers, single_tier
from streams import intake, state_topic, worker
from streams.kafka import KafkaClients, KafkaSettings
from streams.sources import enrichment_sources
from streams.state_rows import StateRowDecoder
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import Times, WorkerSettings

from .patching import replaced
from .scheduler import Process, Scheduler
from .sim_broker import SimBroker
from .sim_consumer import SimConsumer
from .sim_disk import SimDisk, SimStore
from .sim_producer import SimProducer
from .sim_towers import SimTower
from .workload import MODEL_POISON

SERVING, CANDIDATE = "a" * 64, "b" * 64
SESSION_SECONDS = 3.0
_POISON = frozenset({MODEL_POISON})
_LIVE_ARRIVES = 0.5
"""How often a worker that looks at LIVE sees what it says now."""


@dataclass(frozen=True)
class Armed:
    """A fault that waits for a call: the `count`-th whose name begins with `call`."""

    action: Callable[[], None]
    call: str
    count: int


@dataclass
class Slot:
    """One worker's place: its disk outlives its processes."""

    name: str
    disk: SimDisk = field(default_factory=SimDisk)
    process: Process | None = None
    armed: Armed | None = None
    wanted: bool = True
    live: tuple[str, ...] = ()
    """LIVE as this worker's host has seen it last."""


@dataclass(frozen=True)
class Knobs:
    """How the workers of one run are set."""

    workers: int
    flush_seconds: float
    batch_events: int
    chunk_pins: int
    backfill: Literal["worker", "batch"] = "worker"
    tiers: Tiers = field(default_factory=lambda: single_tier("realtime"))

    @classmethod
    def draw(cls, rng: random.Random) -> "Knobs":
        """Small numbers, so that chunks and batches end everywhere."""
        return cls(
            rng.choice((1, 2, 2, 3)),
            rng.choice((0.5, 1.2, 3.0)),
            rng.choice((3, 8, 64)),
            rng.choice((1, 2, 100)),
            rng.choice(("worker", "worker", "batch")),
            _tiers(rng.choice((BUCKETS, BUCKETS, 20, 65))),
        )

    def settings(self, name: str) -> WorkerSettings:
        """A worker's settings."""
        return WorkerSettings(
            name=name,
            tiers=self.tiers,
            backfill=self.backfill,
            batch_events=self.batch_events,
            poll_seconds=0.4,
            backfill_chunk_pins=self.chunk_pins,
            flush_seconds=self.flush_seconds,
            flush_chunk_pins=self.chunk_pins,
            drain_seconds=2.0,
            retry_seconds=0.5,
            # Its thread looks at simulated time, which is no measure for it.
            watchdog_seconds=1e9,
        )


def _tiers(realtime_buckets: int) -> Tiers:
    """One realtime tier, or one of so many buckets and the others in a batch tier."""
    if realtime_buckets == BUCKETS:
        return single_tier("realtime")
    return Tiers(
        tiers=[
            Tier(name="realtime", end_bucket=realtime_buckets),
            Tier(name="slow", policy="batch", first_bucket=realtime_buckets),
        ]
    )


@contextmanager
def in_one_thread() -> Iterator[None]:
    """What a worker does on a thread beside it happens at once.

    All simulated processes share the decoders, which keep nothing: making them takes most of a run.
    """
    with (
        replaced(worker, "enrichment_sources", _sources),
        replaced(state_topic, "StateRowDecoder", _state_rows),
        replaced(intake, "threading", SimpleNamespace(Thread=_AtOnce)),
    ):
        yield


class _AtOnce:
    """A thread that has ended when `start` returns."""

    def __init__(self, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._target = target

    def start(self) -> None:
        self._target()

    def join(self, timeout: float) -> None:
        pass

    def is_alive(self) -> bool:
        return False


@functools.cache
def _telemetry() -> EnrichmentTelemetry:
    """What workers count is nobody's business here."""
    return EnrichmentTelemetry(CollectorRegistry())


_sources = functools.cache(enrichment_sources)
_state_rows = functools.cache(StateRowDecoder)


class Fleet:
    """Starts, stops and restarts workers."""

    def __init__(self, scheduler: Scheduler, broker: SimBroker, knobs: Knobs) -> None:
        self._scheduler, self._broker, self._knobs = scheduler, broker, knobs
        self.versions = [SERVING]
        self.slots = [Slot(f"worker-{number}") for number in range(knobs.workers)]
        self.crashes: list[str] = []

    def start(self, slot: Slot) -> None:
        """Start a worker, unless it runs or is not wanted."""
        if slot.wanted and slot.process is None:
            slot.process = self._scheduler.spawn(slot.name, lambda process: self._work(slot, process))
            slot.process.on_call = lambda process, name: _on_call(slot, name)

    def _work(self, slot: Slot, process: Process) -> None:
        towers = {
            version: SimTower(version, _POISON, lambda: process.call("forward"))
            for version in (SERVING, CANDIDATE)
        }
        clients = KafkaClients(
            consumer=cast(Any, lambda config: SimConsumer(config, process, self._broker)),
            producer=cast(Any, lambda config: SimProducer(config, process, self._broker)),
        )
        real = EnrichmentWorker(
            KafkaSettings(session_timeout_ms=int(SESSION_SECONDS * 1000), heartbeat_interval_ms=400),
            self._knobs.settings(slot.name),
            SimStore(slot.disk, process),
            lambda: [towers[version] for version in self._seen(slot)],
            _telemetry(),
            lambda: self._scheduler.time.now,
            clients,
            Times(self._broker.wall_ms, process.sleep),
        )
        real.run(lambda: process.stopping)

    def _seen(self, slot: Slot) -> tuple[str, ...]:
        """LIVE as it reaches one host: sooner or later."""
        if not slot.live or self._scheduler.rng.random() < _LIVE_ARRIVES:
            slot.live = tuple(self.versions)
        return slot.live

    def supervise(self) -> bool:
        """Restart what has ended. Always true, so that it can stand before a condition."""
        for slot in self.slots:
            if slot.process is not None and slot.process.ended:
                self._bury(slot, slot.process)
        return True

    def _bury(self, slot: Slot, process: Process) -> None:
        slot.process = None
        self._scheduler.trace(slot.name, f"ended: {process.failure!r}")
        if process.failure is not None and not isinstance(process.failure, OSError | RetryableError):
            self.crashes.append(f"{slot.name}: {process.failure!r}")
        self._broker.touch_changed()
        if slot.wanted:
            self._scheduler.time.after(0.1 + self._scheduler.rng.random(), lambda: self.start(slot))

    def kill(self, slot: Slot) -> None:
        """`kill -9`, from inside or outside."""
        if slot.process is not None and not slot.process.ended:
            self._scheduler.trace(slot.name, "KILLED")
            slot.process.kill()

    def pause(self, slot: Slot, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if slot.process is not None:
            slot.process.paused_until = self._scheduler.time.now + seconds
            self._scheduler.trace(slot.name, f"PAUSED for {seconds:.2f} s")
            self._broker.touch_changed()
            self._scheduler.time.at(slot.process.paused_until, self._broker.touch_changed)

    def cut(self, slot: Slot, seconds: float) -> None:
        """The network between a worker and the broker breaks, and is mended later."""
        process = slot.process
        if process is not None:
            process.cut = True
            self._scheduler.trace(slot.name, f"CUT OFF for {seconds:.2f} s")
            self._broker.touch_changed()
            self._scheduler.time.after(seconds, lambda: self._mend(process))

    def _mend(self, process: Process) -> None:
        process.cut = False
        self._broker.touch_changed()

    def stop(self, slot: Slot) -> None:
        """SIGTERM."""
        slot.wanted = False
        if slot.process is not None:
            self._scheduler.trace(slot.name, "SIGTERM")
            slot.process.stopping = True

    def want(self, slot: Slot) -> None:
        """It is to run."""
        slot.wanted = True
        self.start(slot)

    def heal(self) -> None:
        """No fault is left: all workers are wanted and go on."""
        for slot in self.slots:
            slot.armed, slot.disk.full = None, False
            if slot.process is not None:
                slot.process.paused_until, slot.process.cut = 0.0, False
            self.want(slot)
        self._broker.touch_changed()


def _on_call(slot: Slot, name: str) -> None:
    armed = slot.armed
    if armed is None or not name.startswith(armed.call):
        return
    if armed.count > 1:
        slot.armed = Armed(armed.action, armed.call, armed.count - 1)
        return
    slot.armed = None
    armed.action()
