"""Skew as it can be seen from outside: what is embedded, answered and released, side by side.

Three kinds, per tier (`schemas.skew.SkewAlerted`), over a sliding window of event time. Ranking logs and
moves of CURRENT name no tier, but snapshots: an answer from a release of several tiers, and a move to one,
count for each of them. One process of a group has to read all partitions of these topics; two would each
see half of the answers.
"""

import logging
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from schemas.codec import encode
from schemas.logs import RankingLog, ReleasePublished
from schemas.skew import EmbeddingsCounted, SkewAlerted, SkewKind
from schemas.topics import EMBEDDINGS_COUNTED, RANKING_LOGGED, RELEASE_PUBLISHED, SKEW_ALERTED, Topic

from .impressions import request_key
from .positions import Partition
from .skew_alerts import AlertState, SkewRules, judge
from .skew_mix import BUCKET_MS, KINDS, Bucket, Found, Move, mix, tiers_of
from .skew_store import BucketName, SkewStore, bucket_key, put_alert, put_bucket, put_moves, put_newest
from .skew_telemetry import MOST_VERSIONS, SkewTelemetry
from .step_events import KeyOf, event_or_letter
from .step_store import Changes
from .steps import Output, RawEvent, StepResult, TurnedDown

log = logging.getLogger(__name__)

RESULTS = ("applied", "redelivered", "too_old", "unreadable", "dead_lettered")
"""What becomes of an event. `too_old`: behind the window. `unreadable`: a ranking log that is none; whoever
makes impressions of it dead-letters it."""

Told = Callable[[], Iterable[SkewAlerted]]
"""What stands on skew.alerted.v1 now: the newest row of each alert."""

_MOST_MOVES = 64
_SOURCES: dict[str, tuple[Topic, KeyOf]] = {
    RELEASE_PUBLISHED.name: (RELEASE_PUBLISHED, lambda one: str(one.release_id).encode()),
    EMBEDDINGS_COUNTED.name: (EMBEDDINGS_COUNTED, lambda one: str(one.worker).encode()),
    RANKING_LOGGED.name: (RANKING_LOGGED, request_key),
}


class SkewMonitorStep:
    """release.published.v1, embeddings.counted.v1, ranking.logged.v1 → skew.alerted.v1.

    Messages are only counted in `apply`; alerts are judged in `tick`, about once a second.
    """

    name = "skew_monitor"
    topics = tuple(_SOURCES)
    results = RESULTS

    def __init__(
        self, path: Path, rules: SkewRules, telemetry: SkewTelemetry, told: Told = lambda: ()
    ) -> None:
        """`path`: directory of the state. `told`: asked when partitions come; may raise RetryableError."""
        self._rules, self._telemetry, self._told = rules, telemetry, told
        self._mine: frozenset[Partition] = frozenset()
        self._store = SkewStore(path)
        self._tiers: dict[str, dict[int, Bucket]] = {}
        for (tier, start_ms), bucket in self._store.buckets():
            self._tiers.setdefault(tier, {})[start_ms] = bucket
        self._moves = self._store.moves()
        self._alerts = self._store.alerts()
        self._newest_ms = self._store.newest()
        for tier in (*self._moves, *(tier for tier, _ in self._alerts)):
            self._tiers.setdefault(tier, {})

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `Step`."""
        return self._store.positions(partitions)

    def owned(self, partitions: Iterable[Partition], behind: Iterable[Partition] = ()) -> None:
        """See `Step`. Says so when this process does not see every answer."""
        mine = frozenset(partitions)
        answers = {number for topic, number in mine if topic == RANKING_LOGGED.name}
        if missing := set(range(RANKING_LOGGED.partitions)) - answers:
            numbers = ", ".join(map(str, sorted(missing)))
            log.warning("another process reads partitions %s: run one skew monitor, not several", numbers)
        self._store.own(frozenset(number for _, number in mine))
        if mine - self._mine:
            self._recall(self._told())
        self._mine = mine

    def _recall(self, rows: Iterable[SkewAlerted]) -> None:
        """Take alerts over from a predecessor, or a state that is lost: nobody else would clear them."""
        for row in rows:
            state = AlertState(row.state == "raised", row.since_ms)
            if state.since_ms > self._alerts.get((row.tier, row.kind), AlertState()).since_ms:
                self._alerts[row.tier, row.kind] = state
                self._tiers.setdefault(row.tier, {})

    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        """See `Step`."""
        changes, letters, counts = Changes(), list[TurnedDown](), Counter[str]()
        dirty: set[BucketName] = set()
        for event in events:
            partition = (event.topic, event.partition)
            message = event_or_letter(event, *_SOURCES[event.topic])
            if isinstance(message, TurnedDown):
                counts[self._turn_down(message, letters)] += 1
                fresh = False
            else:
                fresh = event.offset >= changes.positions.get(partition, self._store.position(partition))
                counts[self._count(message, event, dirty, changes) if fresh else "redelivered"] += 1
            known = changes.positions.get(partition, self._store.position(partition))
            changes.positions[partition] = max(known, event.offset + 1)
        self._forget(dirty, changes)
        for name in dirty:
            put_bucket(changes, name, self._tiers[name[0]][name[1]])
        put_newest(changes, self._newest_ms)
        self._store.write(changes)
        return StepResult(letters=letters, counts=counts)

    def _turn_down(self, letter: TurnedDown, letters: list[TurnedDown]) -> str:
        if letter.event.topic == RANKING_LOGGED.name:
            return "unreadable"
        letters.append(letter)
        return "dead_lettered"

    def _count(self, message: Any, event: RawEvent, dirty: set[BucketName], changes: Changes) -> str:
        """Fold one event in; what became of it."""
        at_ms = _event_time(message)
        # A clock that is ahead must not push the others' events out of the window.
        at_ms = min(at_ms, event.ingested_at_ms) if event.ingested_at_ms > 0 else at_ms
        if isinstance(message, ReleasePublished):
            self._newest_ms = max(self._newest_ms, at_ms)
            self._move(message, at_ms, changes)
            return "applied"
        if at_ms <= self._newest_ms - self._rules.window_ms:
            return "too_old"
        self._newest_ms = max(self._newest_ms, at_ms)
        for tier in self._tiers_named(message):
            name = (tier, at_ms - at_ms % BUCKET_MS)
            bucket = self._tiers.setdefault(tier, {}).setdefault(name[1], Bucket())
            dirty.add(name)
            if isinstance(message, EmbeddingsCounted):
                bucket.add_embeddings(message)
            elif isinstance(message, RankingLog):
                bucket.add_answer(message)
        return "applied"

    def _tiers_named(self, message: Any) -> list[str]:
        if isinstance(message, EmbeddingsCounted):
            return [message.tier]
        return tiers_of(message.snapshot_id, self._rules.default_tier)

    def _is_gone(self, tier: str) -> bool:
        """Whether moves of CURRENT have left the tier out for a window: it was renamed or removed."""
        newest_ms = {name: moves[-1].occurred_at_ms for name, moves in self._moves.items() if moves}
        return max(newest_ms.values(), default=0) - newest_ms.get(tier, 0) >= self._rules.window_ms

    def _move(self, message: ReleasePublished, at_ms: int, changes: Changes) -> None:
        move = Move(at_ms, message.tower_version)
        for tier in tiers_of(message.snapshot_id, self._rules.default_tier):
            self._tiers.setdefault(tier, {})
            moves = self._moves.setdefault(tier, [])
            if move not in moves:
                insort(moves, move)
                del moves[:-_MOST_MOVES]
            put_moves(changes, tier, moves)

    def _forget(self, dirty: set[BucketName], changes: Changes) -> None:
        """Drop the buckets that the window has left."""
        oldest_ms = self._newest_ms - self._rules.window_ms - BUCKET_MS
        for tier, buckets in self._tiers.items():
            for start_ms in [one for one in buckets if one <= oldest_ms]:
                del buckets[start_ms]
                dirty.discard((tier, start_ms))
                changes.deletes.add(bucket_key((tier, start_ms)))

    def tick(self, now_ms: int) -> StepResult:
        """See `Step`: judge every alert of every tier."""
        changes = Changes()
        found = {tier: self._mix(tier) for tier in sorted(self._tiers)}
        for tier, kinds in found.items():
            for kind in KINDS:
                self._judge(tier, kind, kinds[kind], now_ms, changes)
        self._telemetry.show(found, self._alerts)
        return StepResult(self._store.finish(changes))

    def _mix(self, tier: str) -> dict[SkewKind, Found]:
        return mix(self._tiers[tier], self._moves.get(tier, []), self._rules.grace_ms)

    def _judge(self, tier: str, kind: SkewKind, found: Found, now_ms: int, changes: Changes) -> None:
        before = self._alerts.get((tier, kind), AlertState())
        rule = self._rules.alerts[kind]
        now, gone = (self._newest_ms, now_ms), self._is_gone(tier)
        after = judge(before, rule, found.share, found.counted, now, gone=gone)
        if after == before:
            return
        self._alerts[tier, kind] = after
        put_alert(changes, tier, kind, after)
        if after.raised != before.raised:
            row = self._row(tier, kind, found, after)
            log.log(
                logging.WARNING if after.raised else logging.INFO,
                "%s of %s: %s, %.4f of %d",
                kind,
                tier,
                row.state,
                found.share,
                found.counted,
            )
            changes.outputs.append(Output(SKEW_ALERTED.name, f"{tier}:{kind}".encode(), encode(row)))

    def _row(self, tier: str, kind: SkewKind, found: Found, state: AlertState) -> SkewAlerted:
        moves = self._moves.get(tier, [])
        return SkewAlerted(
            tier=tier,
            kind=kind,
            state="raised" if state.raised else "cleared",
            share=found.share,
            threshold=self._rules.alerts[kind].threshold,
            versions=dict(list(found.versions.items())[:MOST_VERSIONS]),
            serving_version=moves[-1].tower_version if moves else None,
            since_ms=state.since_ms,
            occurred_at_ms=self._newest_ms,
        )

    def close(self) -> None:
        """See `Step`."""
        self._store.close()


def _event_time(message: Any) -> int:
    if isinstance(message, EmbeddingsCounted):
        return message.until_ms
    time_ms: int = message.served_at_ms if isinstance(message, RankingLog) else message.occurred_at_ms
    return time_ms
