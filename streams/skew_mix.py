"""What was embedded and answered with which tower version, in buckets of event time; and what of it is skew.

The serving version of a moment is that of the newest release published at or before it. **Grace:** for
`grace_ms` after CURRENT moved, the version before it counts as serving too. Servers take a new release
when it is loaded, checked and warm, and workers follow LIVE, so a move is no skew. Each bucket is judged
by its own time, so what was right before a move stays right after it, whichever topic brings it first.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.logs import RankingLog
from schemas.skew import EmbeddingsCounted, SkewKind

KINDS: tuple[SkewKind, ...] = ("mixed_responses", "stream_not_aligned", "query_not_released")
BUCKET_MS = 10_000
_SNAPSHOT = re.compile(r"(?P<tier>.+)-\d{8}T\d{2}Z-[0-9a-f]{8,}")


def tiers_of(snapshot_id: str, default: str) -> list[str]:
    """The tiers that a snapshot's id begins with; `default` for an id of another form.

    Ranking logs and release moves name no tier, but the snapshots that they come from: a release of several
    tiers names one of each, joined by `+`, the freshest tier's first.
    """
    matches = [_SNAPSHOT.fullmatch(one) for one in snapshot_id.split("+")]
    # A tier once, in the order of the snapshots.
    return list(dict.fromkeys(default if one is None else one["tier"] for one in matches))


class Move(NamedTuple):
    """CURRENT moved to a release of this tower version. Sorts by time."""

    occurred_at_ms: int
    tower_version: str


def serving_at(moves: Sequence[Move], from_ms: int, until_ms: int) -> set[str]:
    """Versions that served at some moment from `from_ms` up to, not including, `until_ms`.

    `moves` ascend. Empty when no release was there yet.
    """
    serving: set[str] = set()
    for move in moves:
        if move.occurred_at_ms >= until_ms:
            break
        if move.occurred_at_ms <= from_ms:
            serving = set()
        serving.add(move.tower_version)
    return serving


@dataclass
class Bucket:
    """What happened in one stretch of event time in one tier."""

    pins: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    tolerated: int = 0
    """Answers of servers that mix versions on purpose."""
    mixed: int = 0
    """Answers under `enforce` that are mixed nevertheless."""
    queries: Counter[str] = field(default_factory=Counter)
    ads: Counter[str] = field(default_factory=Counter)

    def add_embeddings(self, counted: EmbeddingsCounted) -> None:
        """Count what a worker embedded."""
        self.pins += counted.pins
        self.rows.update(counted.rows)

    def add_answer(self, log: RankingLog) -> None:
        """Count one answer. Only one under `enforce` can be mixed by mistake."""
        self.answers += 1
        self.queries[log.query_tower_version] += 1
        if log.version_policy == "tolerate":
            self.tolerated += 1
            return
        versions = [ad.tower_version for ad in log.ads]
        self.ads.update(versions)
        self.mixed += any(version != log.query_tower_version for version in versions)


class Found(NamedTuple):
    """Of `counted` things in the window, `skewed` are skewed; `versions`: shares, the largest first."""

    counted: int
    skewed: int
    versions: dict[str, float]

    @property
    def share(self) -> float:
        """The skewed share; 0 when nothing was counted."""
        return self.skewed / self.counted if self.counted else 0.0


def mix(buckets: Mapping[int, Bucket], moves: Sequence[Move], grace_ms: int) -> dict[SkewKind, Found]:
    """What a tier's window comes to. What no release was there for is not judged by its release."""
    pins = unaligned = answers = judged = unreleased = mixed = 0
    rows, queries, ads = Counter[str](), Counter[str](), Counter[str]()
    for start_ms, bucket in buckets.items():
        answers, mixed = answers + bucket.answers - bucket.tolerated, mixed + bucket.mixed
        ads.update(bucket.ads)
        serving = serving_at(moves, start_ms - grace_ms, start_ms + BUCKET_MS)
        if not serving:
            continue
        pins, judged = pins + bucket.pins, judged + bucket.answers
        unaligned += max(bucket.pins - max(bucket.rows[version] for version in serving), 0)
        unreleased += bucket.answers - sum(bucket.queries[version] for version in serving)
        rows.update(bucket.rows)
        queries.update(bucket.queries)
    return {
        "mixed_responses": Found(answers, mixed, _shares(ads, sum(ads.values()))),
        "stream_not_aligned": Found(pins, unaligned, _shares(rows, pins)),
        "query_not_released": Found(judged, unreleased, _shares(queries, judged)),
    }


def _shares(counts: Counter[str], total: int) -> dict[str, float]:
    most: Iterable[tuple[str, int]] = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {version: min(count / total, 1.0) for version, count in most if total}
