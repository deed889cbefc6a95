"""The skew monitor's state as it lies in RocksDB: buckets, moves of CURRENT, alerts, and event time."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import orjson

from schemas.skew import SkewKind

from .skew_alerts import AlertState
from .skew_mix import Bucket, Move
from .step_store import Changes, StepStore

_BUCKET, _MOVES, _ALERT, _NEWEST = b"b", b"r", b"a", b"t"
BucketName = tuple[str, int]
"""Tier, and the bucket's first moment in event time."""


class SkewStore(StepStore):
    """State of `SkewMonitorStep`, read whole at the start: a window is small."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "skew/1")

    def buckets(self) -> Iterator[tuple[BucketName, Bucket]]:
        """Every bucket of the window."""
        for key, value in self.scan(_BUCKET):
            fields = orjson.loads(value)
            for name in ("rows", "queries", "ads"):
                fields[name] = Counter(fields[name])
            yield (key[9:].decode(), int.from_bytes(key[1:9], "big")), Bucket(**fields)

    def moves(self) -> dict[str, list[Move]]:
        """Moves of CURRENT by tier, ascending."""
        return {
            key[1:].decode(): [Move(*one) for one in orjson.loads(value)] for key, value in self.scan(_MOVES)
        }

    def alerts(self) -> dict[tuple[str, SkewKind], AlertState]:
        """Alerts by tier and kind. Wall clocks are not kept: a new process waits anew."""
        found = {}
        for key, value in self.scan(_ALERT):
            kind, _, tier = key[1:].decode().partition(":")
            found[tier, cast(SkewKind, kind)] = AlertState(*orjson.loads(value))
        return found

    def newest(self) -> int:
        """Newest event time seen, 0 for none."""
        return int(self.get(_NEWEST) or 0)


def bucket_key(name: BucketName) -> bytes:
    """Key of a bucket."""
    return _BUCKET + name[1].to_bytes(8, "big") + name[0].encode()


def put_bucket(changes: Changes, name: BucketName, bucket: Bucket) -> None:
    """Keep a bucket."""
    changes.puts[bucket_key(name)] = orjson.dumps(vars(bucket))


def put_moves(changes: Changes, tier: str, moves: list[Move]) -> None:
    """Keep the moves of a tier."""
    changes.puts[_MOVES + tier.encode()] = orjson.dumps([list(one) for one in moves])


def put_alert(changes: Changes, tier: str, kind: SkewKind, state: AlertState) -> None:
    """Keep an alert."""
    stored = orjson.dumps([state.raised, state.since_ms, state.turning_ms])
    changes.puts[_ALERT + f"{kind}:{tier}".encode()] = stored


def put_newest(changes: Changes, time_ms: int) -> None:
    """Keep the newest event time."""
    changes.puts[_NEWEST] = b"%d" % time_ms
