"""How far a rollover is: what the candidate has of each tier and lacks, how long it takes, what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from index.snapshots import Reach, falls_behind, newest_of_tiers
from models.live_towers import read_live_towers
from schemas.errors import Refused
from schemas.file_locks import is_held
from schemas.manifests import ReleaseManifest, SnapshotManifest
from schemas.rollovers import Rollover
from schemas.statuses import CutterStatus
from schemas.tiers import Tier
from streams.cutter_status import read_cutter_status
from streams.embedding_runs import EmbeddingRuns

from .rollover_cost import Cost, embed_statuses, rollover_cost
from .rollover_record import read_rollover, went_live
from .settings import Settings
from .store_connection import release_store


@dataclass(frozen=True)
class TierProgress:
    """One tier. `missing` says in words what a release still waits for; empty when the tier is complete."""

    policy: str
    covered: float
    pins: int | None
    of: int | None
    behind: int
    partitions: dict[int, float]
    snapshot_id: str | None
    run: str | None
    shards: str
    eta_seconds: float | None
    missing: str


@dataclass(frozen=True)
class Progress:
    """The whole of it. `state`: `under way`, `ready` (to be finished), `live` (published), `interrupted`.

    `was_live_before`: what is ready was live before the rollover. By itself only a newer snapshot goes live.
    """

    state: str
    candidate: str
    serving: str
    started_ms: int
    elapsed_seconds: float
    manual: bool
    actor: str
    reason: str
    covered: float
    eta_seconds: float | None
    tiers: dict[str, TierProgress]
    cost: Cost
    missing: list[str] = field(default_factory=list)
    was_live_before: bool = False


def rollover_progress(settings: Settings, now_ms: int) -> Progress | None:
    """How far the rollover under way is, or None. Raises Refused for a damaged record."""
    record = read_rollover(settings)
    if record is None:
        return None
    live_release = release_store(settings).comparable_live()
    tiers = {
        tier.name: _tier(settings, tier, record, live_release, now_ms) for tier in settings.tiers().tiers
    }
    missing = [f"tier {name}: {one.missing}" for name, one in tiers.items() if one.missing]
    weights = {name: one.of or 1 for name, one in tiers.items()}
    known = [one.eta_seconds for one in tiers.values() if one.missing]
    state = _state(settings, record, live_release, missing)
    return Progress(
        state=state,
        candidate=record.candidate,
        serving=record.serving,
        started_ms=record.started_ms,
        elapsed_seconds=max(now_ms - record.started_ms, 0) / 1000,
        manual=record.manual,
        actor=record.actor,
        reason=record.reason,
        covered=sum(weights[name] * one.covered for name, one in tiers.items()) / sum(weights.values()),
        eta_seconds=max((one for one in known if one is not None), default=0.0)
        if None not in known
        else None,
        tiers=tiers,
        cost=rollover_cost(settings, record),
        missing=missing,
        was_live_before=state == "ready" and _was_live_before(settings, record, tiers),
    )


def _was_live_before(settings: Settings, record: Rollover, tiers: Mapping[str, TierProgress]) -> bool:
    """Whether a release of just these snapshots was live: the newest ones of the candidate are no newer."""
    newest = {one.snapshot_id for one in tiers.values()}
    return any(
        move.tower_version == record.candidate and set(move.snapshot_id.split("+")) == newest
        for move in release_store(settings).audit()
    )


def _state(settings: Settings, record: Rollover, live: ReleaseManifest | None, missing: list[str]) -> str:
    if record.candidate not in read_live_towers(settings.towers_dir):
        return "interrupted"
    served = live is not None and live.tower_version == record.candidate
    if served and went_live(record, release_store(settings).audit()):
        return "live"
    return "under way" if missing else "ready"


def _tier(
    settings: Settings, tier: Tier, record: Rollover, live: ReleaseManifest | None, now_ms: int
) -> TierProgress:
    newest = candidate_snapshot(settings, tier, record.candidate)
    missing = _missing(settings, tier, record, newest, live)
    run = _Run.of(settings, tier, record.candidate)
    said = read_cutter_status(settings.status_file(f"cutter-{tier.name}"))
    candidate = said.candidates.get(record.candidate) if said and tier.policy == "realtime" else None
    if candidate is not None and candidate.blocked and missing:
        missing = candidate.blocked
    elif missing:
        missing = f"{missing}{_why(settings, tier, record, said)}"
    covered = candidate.covered if candidate is not None else run.share if missing else 1.0
    eta = run.eta_seconds if run.eta_seconds is not None else _eta(covered, record, now_ms)
    return TierProgress(
        policy=tier.policy,
        covered=covered,
        pins=candidate.pins if candidate else newest.rows if newest else None,
        of=candidate.of if candidate else _served_rows(live, tier),
        behind=candidate.behind if candidate else 0,
        partitions=candidate.partitions if candidate else {},
        snapshot_id=newest.snapshot_id if newest else None,
        run=run.name,
        shards=run.shards,
        eta_seconds=0.0 if not missing else eta,
        missing=missing,
    )


def candidate_snapshot(settings: Settings, tier: Tier, version: str) -> SnapshotManifest | None:
    """The newest snapshot that a release of this tower could take of the tier."""
    streamed = {tier.name} if tier.policy == "realtime" else set[str]()
    return newest_of_tiers(settings.snapshots_dir, version, streamed).get(tier.name)


def _missing(
    settings: Settings,
    tier: Tier,
    record: Rollover,
    newest: SnapshotManifest | None,
    live: ReleaseManifest | None,
) -> str:
    """What a release still waits for, as the snapshots tell it."""
    if newest is None:
        return f"no snapshot of tower {record.candidate[:12]}"
    served: list[Reach] = [live.tiers[tier.name]] if live is not None and tier.name in live.tiers else []
    if tier.policy == "realtime" and (serving := candidate_snapshot(settings, tier, record.serving)):
        # Both are cut in one go; when only the serving tower was, the candidate was not complete.
        served.append(serving)
    whys = (falls_behind(newest, one, tier.policy) for one in served)
    return next((f"its newest snapshot, {why}" for why in whys if why), "")


def _why(settings: Settings, tier: Tier, record: Rollover, said: CutterStatus | None) -> str:
    """What to look at when a tier's snapshot is missing."""
    if tier.policy == "batch":
        return f"; `skewless embed --tier {tier.name} --tower {record.candidate[:12]}` makes one"
    if not is_held(settings.cutter_lock(tier.name)):
        return "; its cutter, `skewless snapshots`, is not running on this host"
    if said is None or record.candidate not in said.live:
        return "; its cutter has not taken the tower up yet"
    return "; the next cut makes one"


@dataclass(frozen=True)
class _Run:
    """What the batch embedder has of a tier's candidate."""

    name: str | None = None
    share: float = 0.0
    shards: str = ""
    eta_seconds: float | None = None

    @classmethod
    def of(cls, settings: Settings, tier: Tier, version: str) -> "_Run":
        try:
            run = EmbeddingRuns(settings.embeddings_dir).newest(tier, version)
        except Refused:
            return cls()
        said = embed_statuses(settings, tier.name, version)
        waits = next((one.waiting for one in said if one.waiting), "")
        if run is None:
            return cls(shards=waits)
        total = len(run.partitions)
        done = total - len(run.missing())
        known = [one.eta_seconds for one in said if one.run_id == run.path.name]
        etas = [one for one in known if one is not None]
        eta = max(etas) if etas and len(etas) == len(known) and done < total else None
        return cls(run.path.name, done / total if total else 0.0, waits or f"{done}/{total}", eta)


def _eta(covered: float, record: Rollover, now_ms: int) -> float | None:
    """As fast as until now; None before anything was covered, and when only the cut is still to come."""
    if not 0.0 < covered < 1.0:
        return None
    return (now_ms - record.started_ms) / 1000 * (1 - covered) / covered


def _served_rows(live: ReleaseManifest | None, tier: Tier) -> int | None:
    return live.tiers[tier.name].rows if live is not None and tier.name in live.tiers else None
