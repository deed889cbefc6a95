"""The served release, tier by tier: versions, lag, how far behind. For metrics and status alike.

Rows are counted by their own tags, and their tier is what their Pin's id says: a manifest that claims
something else changes nothing here. Only a root, which holds no rows, repeats the manifest; its leaves count.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.tier_slices import tier_codes
from index.delta_fold import Base
from schemas.manifests import ReleaseManifest, TierPart
from schemas.tiers import Tiers

from .clock import seconds_since
from .live_release import LiveRelease
from .version_lag import rows_by_lag

_STEP_ROWS = 16_384


@dataclass(frozen=True)
class TierFacts:
    """One tier of a release. Moments are of its snapshot: the delta segment may be ahead of them."""

    name: str
    policy: str
    snapshot_id: str
    hour_ms: int
    rows: int
    versions: dict[str, int]
    lag_rows: dict[str, int]
    newest_event_ms: int
    newest_ingest_ms: int
    aligned_ratio: float
    """Share of the tier's rows that are of the query tower's version; 1 without rows."""
    servable_seconds: npt.NDArray[np.float64]
    """Event to servable of the rows that the release before it did not hold."""

    def lag_seconds(self, now_ms: int) -> float:
        """Age of the newest event that the tier's snapshot holds."""
        return seconds_since(self.newest_ingest_ms, now_ms)


@dataclass(frozen=True)
class Before:
    """What is known when a release goes live: the time, versions and tiers as declared, what was served."""

    now_ms: int
    order: Sequence[str] = ()
    """Tower versions, oldest first: `version_lag.version_order`."""
    tiers: Tiers | None = None
    held_tiers: Collection[str] = ()
    """Of the release before it; none before the first."""
    held: Base | None = None
    """Rows of the release before it."""


def tier_facts(release: LiveRelease, before: Before) -> tuple[TierFacts, ...]:
    """Every tier of the release, in the manifest's order."""
    query, parts = release.query_tower.version, tier_parts(release.manifest)
    owner = _owners(release, list(parts), before.tiers)
    ingested_ms = release.index.attributes["ingested_at_ms"]
    is_news = _news(release, before.held)
    facts = []
    for place, (name, part) in enumerate(parts.items()):
        own = slice(None) if owner is None else owner == place
        codes = np.bincount(release.index.version_code[own], minlength=len(release.index.versions))
        mix = {one: int(n) for one, n in zip(release.index.versions, codes, strict=True) if n}
        if not len(ingested_ms):
            # A root holds no rows: what its leaves proved of theirs is what the manifest says.
            mix = dict(part.versions)
        rows = sum(mix.values())
        # Without a release before it there is nothing to be newer than: a first load has no freshness.
        came_ms = ingested_ms[own][is_news[own]] if name in before.held_tiers else ingested_ms[:0]
        facts.append(
            TierFacts(
                name=name,
                policy=part.policy,
                snapshot_id=part.snapshot_id,
                hour_ms=part.hour_ms,
                rows=rows,
                versions=mix,
                lag_rows=rows_by_lag(mix, query, before.order),
                newest_event_ms=part.newest_event_ms,
                newest_ingest_ms=part.newest_ingest_ms,
                aligned_ratio=mix.get(query, 0) / rows if rows else 1.0,
                servable_seconds=np.maximum(before.now_ms - came_ms, 0) / 1_000.0,
            )
        )
    return tuple(facts)


def _news(release: LiveRelease, held: Base | None) -> npt.NDArray[np.bool_]:
    """Whether the release before did not have each row's Pin in this revision or a newer one.

    By revision, not by time: partitions and tiers are read at their own pace.
    """
    rows = release.index.attributes
    found = np.zeros(len(rows), np.bool_)
    # In short steps: requests wait for the interpreter lock that each of them holds.
    for start in range(0, 0 if held is None else len(rows), _STEP_ROWS):
        step = slice(start, start + _STEP_ROWS)
        found[step] = held is not None and held.outdated(rows[step])[1]
    return found


def _owners(release: LiveRelease, names: list[str], tiers: Tiers | None) -> npt.NDArray[np.int64] | None:
    """Each row's place in `names`, or None: they are all the first one's."""
    if len(names) == 1:
        return None
    declared = [] if tiers is None else [tier.name for tier in tiers.tiers]
    if tiers is None or not set(declared) & set(names):
        return np.zeros(len(release.index.attributes), np.int64)
    places = np.array([names.index(name) if name in names else 0 for name in declared])
    owners: npt.NDArray[np.int64] = places[tier_codes(release.index.attributes["pin_id"], tiers)]
    return owners


def tier_parts(manifest: ReleaseManifest) -> dict[str, TierPart]:
    """The manifest's tiers; of a format-1 manifest the one that it had."""
    if manifest.tiers:
        return manifest.tiers
    only = TierPart(
        policy="realtime",
        snapshot_id=manifest.snapshot_id,
        hour_ms=manifest.hour_ms,
        rows=manifest.index.rows,
        versions={manifest.tower_version: manifest.index.rows},
        offsets=manifest.offsets,
        newest_event_ms=manifest.newest_event_ms,
        newest_ingest_ms=manifest.newest_ingest_ms,
    )
    return {manifest.tier: only}
