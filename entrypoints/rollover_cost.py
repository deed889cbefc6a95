"""What a rollover has cost so far: the second forward of the workers, and the batch embedders."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from schemas.rollovers import Rollover, TowerWork, WorkerBaseline
from schemas.statuses import EmbedStatus, TowerStatus, WorkerStatus

from .settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What was spent since the start. `at_least`: a worker was restarted and forgot what it had spent."""

    towers: dict[str, TowerWork]
    batch_cpu_seconds: float
    batch_rows: int
    rss_bytes: int
    rss_growth_bytes: int
    at_least: bool


def rollover_cost(settings: Settings, record: Rollover) -> Cost:
    """What enrichment workers and batch embedders have spent on both towers since the start."""
    towers: dict[str, TowerWork] = {one: TowerWork() for one in (record.serving, record.candidate)}
    at_least, rss, before = False, 0, 0
    now = worker_counters(settings)
    for worker, one in now.items():
        base = record.baseline.get(worker)
        same = base is not None and base.started_at_ms == one.started_at_ms
        at_least = at_least or not same
        rss, before = rss + one.rss_bytes, before + (base.rss_bytes if base else 0)
        for version, sofar in towers.items():
            spent = one.towers.get(version, TowerWork())
            start = base.towers.get(version, TowerWork()) if base is not None and same else TowerWork()
            towers[version] = _plus(sofar, spent, start)
    batch = [
        one
        for tier in settings.tiers().tiers
        for one in embed_statuses(settings, tier.name, record.candidate)
    ]
    return Cost(
        towers=towers,
        batch_cpu_seconds=sum(one.cpu_seconds for one in batch),
        batch_rows=sum(one.rows for one in batch),
        rss_bytes=rss,
        rss_growth_bytes=rss - before if record.baseline and now else 0,
        at_least=at_least or record.baseline.keys() - now.keys() != set(),
    )


def _plus(total: TowerWork, spent: TowerWork, start: TowerWork) -> TowerWork:
    return TowerWork(
        embed_cpu_seconds=total.embed_cpu_seconds + spent.embed_cpu_seconds - start.embed_cpu_seconds,
        rows=total.rows + spent.rows - start.rows,
        row_bytes=total.row_bytes + spent.row_bytes - start.row_bytes,
        backfill_rows=total.backfill_rows + spent.backfill_rows - start.backfill_rows,
    )


def worker_counters(settings: Settings) -> dict[str, WorkerBaseline]:
    """What each enrichment worker of this data directory says it has spent since its start."""
    counters: dict[str, WorkerBaseline] = {}
    for path in sorted(settings.status_file("any").parent.glob("worker-*.json")):
        try:
            said = WorkerStatus.model_validate_json(path.read_bytes())
            counters[path.stem] = WorkerBaseline(
                started_at_ms=said.started_at_ms,
                rss_bytes=said.rss_bytes,
                towers={version: _work(one) for version, one in said.towers.items()},
            )
        except (FileNotFoundError, ValidationError) as error:
            log.warning("%s says nothing of its cost: %s", path.name, error)
    return counters


def _work(said: TowerStatus) -> TowerWork:
    return TowerWork(
        embed_cpu_seconds=said.embed_cpu_seconds,
        rows=said.rows,
        row_bytes=said.row_bytes,
        backfill_rows=said.backfill_rows,
    )


def embed_statuses(settings: Settings, tier: str, version: str) -> list[EmbedStatus]:
    """What the batch embedders of a tier and tower said last."""
    return [said for _, said in embed_files(settings, tier, version)]


def embed_files(settings: Settings, tier: str, version: str) -> list[tuple[Path, EmbedStatus]]:
    """The same with the files that it stands in."""
    found = []
    for path in sorted(settings.status_file("any").parent.glob(f"embed-{tier}-*.json")):
        try:
            said = EmbedStatus.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            continue
        if (said.tier, said.tower_version) == (tier, version):
            found.append((path, said))
    return found
