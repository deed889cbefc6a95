"""The processes of one measured rollover, the changes that go on meanwhile, and what its releases held."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from benchmarks.enrich_workload import Events, events
from benchmarks.fixtures import save_tower
from benchmarks.rollover_swap import ROWS, Published, difference, read_release_rows, swap_figures
from features.definitions import registry
from features.pin_state import empty_records
from index.releases import ReleaseStore
from models.live_towers import write_live_towers
from models.predictor import PinTower
from schemas.topics import PIN_CHANGED
from streams.kafka import KafkaSettings, producer_config

STARTED_SECONDS = 300.0
_POLL_SECONDS = 0.05
_CHUNK = 5_000


@dataclass(frozen=True)
class Size:
    """Pins, changes a second, seconds between cuts, and how long is measured before and after."""

    pins: int
    changes_per_second: int
    cut_seconds: float
    phase_seconds: float


@dataclass
class Phases:
    """Event to servable of every row that a release brought, by phase; the swap; and what the rollover took.

    `swap` is the candidate's first release whenever it is seen, `after` what comes later; the releases
    before it are told apart by when they were published.
    """

    before_ms: float = math.inf
    during_ms: float = math.inf
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {"before": [], "during": [], "swap": [], "after": []}
    )
    releases: dict[str, int] = field(
        default_factory=lambda: {"before": 0, "during": 0, "swap": 0, "after": 0}
    )
    swap: dict[str, Any] | None = None
    changes_per_second: dict[str, float] = field(default_factory=dict)
    rollover_seconds: float = 0.0
    worker: dict[str, Any] = field(default_factory=dict)
    embed_cpu_seconds: float = 0.0

    def note(self, replaced: Published, new: Published, of_candidate: bool) -> None:
        """CURRENT moved from one release to another."""
        phase = self._phase(new.at_ms, of_candidate)
        if phase == "swap":
            self.swap = swap_figures(replaced, new)
        if phase in self.seconds:
            found = difference(replaced.rows, new.rows)
            self.seconds[phase] += found.seconds_to_servable(new.at_ms)
            self.releases[phase] += 1

    def _phase(self, at_ms: int, of_candidate: bool) -> str:
        if self.swap is not None:
            return "after"
        if of_candidate:
            return "swap"
        if at_ms >= self.during_ms:
            return "during"
        return "before" if at_ms >= self.before_ms else "start"

    def figures(self) -> dict[str, Any]:
        """For the result. `p99_ratio` is the worse of during and swap over before; infinite without rows."""
        spans = {
            phase: {
                "releases": self.releases[phase],
                "rows": len(found),
                "p50_seconds": _quantile(found, 0.5),
                "p99_seconds": _quantile(found, 0.99),
            }
            for phase, found in self.seconds.items()
        }
        before = spans["before"]["p99_seconds"]
        since = [one for phase in ("during", "swap") if (one := spans[phase]["p99_seconds"]) is not None]
        return {
            "event_to_servable": spans,
            "p99_ratio": round(max(since) / before, 2) if since and before else math.inf,
            "swap": self.swap,
            "changes_per_second": self.changes_per_second,
            "rollover_seconds": round(self.rollover_seconds, 1),
            "worker_window": self.worker,
            "batch_job_cpu_seconds": round(self.embed_cpu_seconds, 1),
        }


def _quantile(found: list[float], share: float) -> float | None:
    return round(float(np.quantile(found, share)), 2) if found else None


class RolloverRun:
    """A worker and a cutter under a stream of changes, and a rollover from the first tower to the second."""

    def __init__(self, servers: str, data: Path, size: Size, backfill: str) -> None:
        self._data, self._size, self._backfill = data, size, backfill
        self._kafka = KafkaSettings(bootstrap_servers=servers)
        self._towers = [save_tower(data, seed).tower_version for seed in (1, 2)]
        write_live_towers(data / "towers", self._towers[:1])
        self._store = ReleaseStore(data / "releases")
        self._environment = os.environ | {
            "SKEWLESS_DATA_DIR": str(data),
            "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": servers,
            "SKEWLESS_CUT_EVERY_SECONDS": str(size.cut_seconds),
            "SKEWLESS_BACKFILL": backfill,
            "SKEWLESS_INDEX_KIND": "flat",
            "SKEWLESS_STATE_FLUSH_SECONDS": "2",
            "OMP_NUM_THREADS": "1",
        }
        self._stop = threading.Event()
        self._phases = Phases()
        self._acknowledged = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Worker, cutter, producer and the watcher of releases."""
        log = (self._data / "processes.log").open("wb")
        commands = (["enrich"], ["snapshots"])
        processes = [self._popen(command, log) for command in commands]
        threads = [threading.Thread(target=work) for work in (self._change, self._watch)]
        try:
            self._publish_all()
            for thread in threads:
                thread.start()
            yield
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)
            log.close()

    def _popen(self, command: list[str], log: Any) -> "subprocess.Popen[bytes]":
        arguments = [sys.executable, "-m", "entrypoints.cli", *command]
        return subprocess.Popen(arguments, env=self._environment, stdout=log, stderr=log)

    def go(self) -> Phases:
        """Wait for a release of every Pin, measure, roll over, measure."""
        serving, candidate = self._towers
        self._until(lambda: self._live_rows() >= self._size.pins, "a release of every Pin")
        time.sleep(2 * self._size.cut_seconds)
        self._phases.before_ms = time.time() * 1000
        changes, since = self._acknowledged, time.monotonic()
        time.sleep(self._size.phase_seconds)
        at_start, started = self._worker_status(), time.monotonic()
        self._phases.during_ms = time.time() * 1000
        self._command("rollover", "start", "--tower", candidate, "--reason", "benchmark")
        if self._backfill == "batch":
            self._phases.embed_cpu_seconds = self._command("embed", "--tower", candidate)
        self._until(lambda: self._live_tower() == candidate, "a release of the candidate")
        self._phases.rollover_seconds = time.monotonic() - started
        self._phases.worker = _window(at_start, self._worker_status(), serving, candidate)
        time.sleep(self._size.phase_seconds)
        rate = (self._acknowledged - changes) / (time.monotonic() - since)
        asked = self._size.changes_per_second
        self._phases.changes_per_second = {"asked": asked, "acknowledged": round(rate, 1)}
        return self._phases

    def _command(self, *arguments: str) -> float:
        """Run a command; returns its CPU seconds."""
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "entrypoints.cli", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-800:]}")
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    def _until(self, holds: Any, what: str) -> None:
        deadline = time.monotonic() + STARTED_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                tail = (self._data / "processes.log").read_text("utf-8", "replace")[-1500:]
                raise RuntimeError(f"{what} did not come in {STARTED_SECONDS:.0f} s: {tail}")
            time.sleep(_POLL_SECONDS)

    def _publish_all(self) -> None:
        made = [
            (b"%d" % pin, _with_pin(value, pin)) for pin, (_, value) in enumerate(events(self._size.pins))
        ]
        producer = Producer(producer_config(self._kafka))
        for start in range(0, len(made), _CHUNK):
            _produce(producer, made[start : start + _CHUNK])
            producer.flush(60)

    def _change(self) -> None:
        """So many changes a second by the clock, of Pins at random, until the end.

        One producer for all: to be known to the broker again for each turn took longer than the turn.
        """
        made, rng = events(20_000), np.random.default_rng(7)
        producer, started, sent = Producer(producer_config(self._kafka)), time.monotonic(), 0
        while not self._stop.wait(0.1):
            due = int((time.monotonic() - started) * self._size.changes_per_second) - sent
            pins = rng.integers(0, self._size.pins, due).tolist()
            rows = [made[(sent + place) % len(made)][1] for place in range(due)]
            _produce(
                producer, [(b"%d" % pin, _with_pin(row, pin)) for pin, row in zip(pins, rows, strict=True)]
            )
            sent += due
            self._acknowledged = sent - len(producer)
        producer.flush(60)

    def _watch(self) -> None:
        """Compare every release that goes live with the one before it, while both are kept.

        The audit trail is followed, not CURRENT: of two moves in a moment both are seen.
        """
        before, seen = Published("", 0, np.empty(0, ROWS)), 0
        while not self._stop.wait(_POLL_SECONDS):
            if self._store.current() in (None, before.release_id):
                continue
            moves = self._store.audit()
            for move in moves[seen:]:
                rows = read_release_rows(self._store.directory(move.release_id))
                live = Published(move.release_id, move.occurred_at_ms, rows)
                self._phases.note(before, live, move.tower_version == self._towers[1])
                before = live
            seen = len(moves)

    def _live_rows(self) -> int:
        current = self._store.current()
        return 0 if current is None else self._store.manifest(current).index.rows

    def _live_tower(self) -> str | None:
        current = self._store.current()
        return None if current is None else self._store.manifest(current).tower_version

    def _worker_status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self._data / "status" / "worker-0.json").read_bytes())
        return status


def _produce(producer: Producer, made: Events) -> None:
    for key, value in made:
        producer.produce(PIN_CHANGED.name, value, key)
    producer.poll(0)


def _with_pin(value: bytes, pin: int) -> bytes:
    """The event, about this Pin."""
    return b'{"pin_id":%d,%s' % (pin, value.split(b",", 1)[1])


def _window(start: dict[str, Any], end: dict[str, Any], serving: str, candidate: str) -> dict[str, Any]:
    """What the worker spent between two statuses, by tower."""
    nothing = {"embed_cpu_seconds": 0.0, "rows": 0, "row_bytes": 0}
    found: dict[str, Any] = {"rss_bytes_before": start["rss_bytes"], "rss_bytes_at_swap": end["rss_bytes"]}
    for name, version in (("serving", serving), ("candidate", candidate)):
        before, after = start["towers"].get(version, nothing), end["towers"].get(version, nothing)
        found[name] = {key: round(after[key] - before[key], 2) for key in nothing}
    return found


def plain_embedding(data: Path, pins: int) -> dict[str, float]:
    """CPU seconds of the tower's forward over as many Pins, once, with nothing else around it."""
    version = save_tower(data / "plain", 2).tower_version
    tower = PinTower.load(data / "plain" / "towers", version, registry())
    batch = empty_records(np.arange(8192, dtype=np.int64))
    tower.embed(batch)
    started, done = time.process_time(), 0
    while done < pins:
        tower.embed(batch)
        done += len(batch)
    return {"pins": pins, "cpu_seconds": round((time.process_time() - started) * pins / done, 2)}
