"""The batch embedder: one tier, one tower, from the states on pin.features.v1 to a snapshot.

Partitions are shared out by number, so processes on any number of hosts work on one run over one
directory. Each finished partition is a shard on disk, and a run begun by a process that died is gone on
with. Whoever finds all shards there assembles the snapshot.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from schemas.embedding_runs import AssembledRun, EmbeddingRun, EmbeddingShard
from schemas.errors import Refused
from schemas.manifests import TowerManifest
from schemas.statuses import EmbedStatus
from schemas.tiers import Tier

from .batch_embedding import embed_states
from .batch_states import Interrupted, PartitionReader, StateSource
from .embed_status import EmbedMeter
from .embedding_runs import EmbeddingRuns, RunDirectory, run_prefix
from .live_gate import Waiting, wait_until_live
from .topic_reader import Span
from .tower_output import PinEmbedder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """Which partitions are this process's: those whose number leaves `index` when divided by `of`."""

    index: int = 0
    of: int = 1

    def has(self, partition: int) -> bool:
        """Whether the partition is ours."""
        return partition % self.of == self.index


@dataclass(frozen=True)
class EmbedPlan:
    """What is embedded and where it goes. `clock` is whose hours snapshots have here."""

    tier: Tier
    runs: Path
    snapshots: Path
    clock: Literal["event", "wall"] = "event"
    share: Share = field(default_factory=Share)
    batch_pins: int = 8192


@dataclass(frozen=True)
class EmbedSurroundings:
    """Time, the wish to stop, and who is shown the progress (as often as something moved)."""

    waiting: Waiting
    now_ms: Callable[[], int]
    show: Callable[[EmbedStatus], None]
    cpu_seconds: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Embedded:
    """What a run has come to when this process is through with its share."""

    run_id: str
    partitions: int
    missing: list[int]
    """Partitions without a shard: other processes' share, or ours when it was told to stop."""
    rows: int
    failed: dict[int, str]
    """Pins of this process's share that have no row, and why."""
    unreadable: int
    assembled: AssembledRun | None


class BatchEmbedder:
    """One process of a run."""

    def __init__(
        self, source: StateSource, tower: PinEmbedder, manifest: TowerManifest, plan: EmbedPlan,
        around: EmbedSurroundings,
    ) -> None:  # fmt: skip
        self._source, self._tower, self._manifest, self._plan, self._around = (
            source, tower, manifest, plan, around,
        )  # fmt: skip
        self._runs = EmbeddingRuns(plan.runs)
        self._meter = EmbedMeter(plan.tier.name, tower.version, around.waiting.clock())
        self._failed: dict[int, str] = {}
        self._unreadable = 0

    def run(self) -> Embedded | None:
        """Embed our share of the run under way, or begin one; assemble it when nothing is missing.

        None when it was told to stop before a run could begin. Raises Refused, and RetryableError when
        Kafka or the workers keep it waiting for too long.
        """
        waiting = self._waiting()
        run = self._runs.unfinished(self._plan.tier, self._tower.version)
        if self._plan.tier.policy == "realtime" and not wait_until_live(
            self._source, self._tower.version, waiting
        ):
            return None
        spans = self._source.spans()
        run = run or self._begin(spans)
        ours = [number for number in run.missing() if self._plan.share.has(number)]
        self._meter.begin(run.path.name, len(ours), _rows(spans, ours), waiting.clock())
        self._show()
        try:
            for number in ours:
                self._embed(run, number)
        except Interrupted:
            log.info("told to stop; finished partitions of run %s are kept", run.path.name)
        # Before the run is over: whoever finds it so begins the next one, and deletes this one.
        shards = run.shards()
        is_whole = len(shards) == len(run.partitions)
        return self._embedded(run, shards, self._assembled(run) if is_whole else None)

    def assemble(self) -> Embedded:
        """Assemble the run under way, or say what came of the last one. Raises Refused."""
        run = self._runs.newest(self._plan.tier, self._tower.version)
        if run is None:
            raise Refused(
                "no_run",
                f"a run of tier {self._plan.tier.name} as declared, with tower {self._tower.version[:12]}",
                f"none in {self._plan.runs}",
                "`skewless embed` without --assemble begins one.",
            )
        shards = run.shards()
        return self._embedded(run, shards, run.assemble(self._plan.snapshots, self._manifest))

    def _begin(self, spans: Mapping[int, Span]) -> RunDirectory:
        plan = EmbeddingRun(
            run_id=f"{run_prefix(self._plan.tier.name, self._tower.version)}-0000",
            tier=self._plan.tier.name,
            policy=self._plan.tier.policy,
            first_bucket=self._plan.tier.first_bucket,
            end_bucket=self._plan.tier.end_bucket,
            tower_version=self._tower.version,
            clock=self._plan.clock,
            started_ms=self._around.now_ms(),
            ends={number: end for number, (_, end) in spans.items()},
        )
        return self._runs.begin(plan)

    def _embed(self, run: RunDirectory, partition: int) -> None:
        stopped = self._around.waiting.stopped
        if stopped():
            raise Interrupted
        reader = PartitionReader(self._source, self._plan.tier, stopped)
        states = reader.read(partition, run.manifest.ends[partition], self._count)
        embedded = embed_states(self._tower, self._manifest.dimension, states, self._plan.batch_pins, stopped)
        shard = EmbeddingShard(
            run_id=run.manifest.run_id,
            partition=partition,
            first_offset=states.first_offset,
            end_offset=states.end_offset,
            state_rows=states.state_rows,
            rows=len(embedded.rows),
            failed=embedded.failed,
            unreadable=states.unreadable,
            files=[],
        )
        run.write_shard(embedded.rows, shard)
        self._tell(shard)

    def _tell(self, shard: EmbeddingShard) -> None:
        self._failed |= shard.failed
        self._unreadable += len(shard.unreadable)
        self._meter.done += 1
        self._meter.rows += shard.rows
        self._meter.failed += len(shard.failed)
        for pin, why in shard.failed.items():
            log.warning("Pin %d has no row of tower %s: %s", pin, self._tower.version[:12], why)
        for offset, why in shard.unreadable.items():
            log.warning("pin.features.v1[%d]@%d: %s", shard.partition, offset, why)
        log.info("partition %d: %d Pins of %d state rows", shard.partition, shard.rows, shard.state_rows)
        self._show()

    def _assembled(self, run: RunDirectory) -> AssembledRun:
        try:
            return run.assemble(self._plan.snapshots, self._manifest)
        except Refused as refused:
            if refused.code == "empty":
                # Its ends are those of a topic without our Pins: gone on with, it would stay empty.
                self._runs.discard(run.path.name)
            raise

    def _embedded(
        self, run: RunDirectory, shards: list[EmbeddingShard], assembled: AssembledRun | None
    ) -> Embedded:
        """What came of the run, by the shards that were there before it was assembled."""
        there = {one.partition for one in shards}
        return Embedded(
            run_id=run.manifest.run_id,
            partitions=len(run.partitions),
            missing=[number for number in run.partitions if number not in there],
            rows=sum(one.rows for one in shards),
            failed=self._failed or {pin: why for one in shards for pin, why in one.failed.items()},
            unreadable=self._unreadable,
            assembled=assembled,
        )

    def _count(self, rows: int) -> None:
        self._meter.read += rows
        self._show()

    def _show(self) -> None:
        around = self._around
        around.show(self._meter.status(around.waiting.clock(), around.now_ms(), around.cpu_seconds()))

    def _waiting(self) -> Waiting:
        """The surroundings' way of waiting, shown in our status too."""
        outer = self._around.waiting

        def said(why: str) -> None:
            self._meter.waiting = why
            outer.said(why)
            self._show()

        return Waiting(outer.seconds, outer.clock, outer.pause, said, outer.stopped, outer.every_seconds)


def _rows(spans: Mapping[int, Span], partitions: list[int]) -> int:
    return sum(end - first for number, (first, end) in spans.items() if number in partitions)
