"""What a run came to, and whether that is what was promised."""

from dataclasses import asdict, dataclass, field
from typing import Any

from entrypoints.output import EXIT_UNAVAILABLE
from tests.kafka_fixture import EMBEDDED
from tests.streams.history import Anomalies
from tests.streams.kill_suite.plan import Act, Plan
from tests.streams.kill_suite.processes import Exit
from tests.streams.kill_suite.snapshots import SnapshotFaults

MAX_REDELIVERED_SHARE = 0.05
MAX_REDELIVERED_SHARE_EMBEDDED = 0.25
"""Unlike Kafka, the embedded broker takes no commits from the moment a group rebalances, so its workers
repeat what they did until they noticed. This bound is for a worker that emits whole partitions again.
"""
MAX_RECOVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Recovery:
    """One incident: seconds from the signal until all that was published by then was committed."""

    act: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """One run."""

    plan: Plan
    broker: str
    seconds: float
    anomalies: Anomalies
    snapshots: SnapshotFaults
    recoveries: list[Recovery] = field(default_factory=list)
    drains_seconds: list[float] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)

    def faults(self) -> list[str]:
        """Which promises were not kept; empty when all were."""
        anomalies, snapshots = self.anomalies.counts(), asdict(self.snapshots)
        promised = ("lost", "unprocessed", "wrong", "duplicate", "phantom", "stale_at_end")
        about_snapshots = ("unreadable", "duplicates", "reverted_rows", "forked", "wrong_rows")
        faults = [f"{name}: {anomalies[name]}" for name in promised if anomalies[name]]
        faults += [f"snapshots, {name}: {snapshots[name]}" for name in about_snapshots if snapshots[name]]
        embedded = self.broker == EMBEDDED
        allowed = MAX_REDELIVERED_SHARE_EMBEDDED if embedded else MAX_REDELIVERED_SHARE
        if self.anomalies.redelivered_share > allowed:
            faults.append(f"redelivered: {self.anomalies.redelivered_share:.1%}")
        if self.slowest("kill") > MAX_RECOVERY_SECONDS:
            faults.append(f"recovery: {self.slowest('kill'):.1f} s")
        alone = [one for one in self.exits if not self._may_end(one)]
        faults += [f"{one.name} ended by itself with {one.code}" for one in alone]
        return faults

    def _may_end(self, one: Exit) -> bool:
        # A cutter leaves it to its supervisor to wait for a broker; a worker waits itself.
        kills_broker = self.plan.acts.get(Act.KILL_BROKER, 0) > 0
        return kills_broker and (one.name, one.code) == ("cutter", EXIT_UNAVAILABLE)

    def slowest(self, kind: str) -> float:
        """The longest recovery of a kind of incident. A broker's is no worker's, so it counts apart."""
        return max((one.seconds for one in self.recoveries if _kind(one.act) == kind), default=0.0)

    def as_json(self) -> dict[str, Any]:
        """For a file or a line of output."""
        acts = sorted({one.act for one in self.recoveries})
        return {
            "broker": self.broker,
            "events": self.plan.events,
            "seed": self.plan.seed,
            "workers": list(self.plan.workers),
            "worker_kills": self.plan.kills,
            "acts": {act.value: count for act, count in self.plan.acts.items()},
            "session_timeout_ms": self.plan.session_timeout_ms,
            "seconds": round(self.seconds, 1),
            **self.anomalies.counts(),
            "redelivered_share": round(self.anomalies.redelivered_share, 4),
            "snapshots": asdict(self.snapshots),
            "recovery_seconds": {
                act: _spread([o.seconds for o in self.recoveries if o.act == act]) for act in acts
            },
            "drain_seconds": _spread(self.drains_seconds),
            "exits": [asdict(one) for one in self.exits],
            "faults": self.faults(),
            "examples": list(self.anomalies.examples),
        }


def _kind(act: str) -> str:
    return "broker" if act == "kill_broker" else "kill"


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "median": round(ordered[len(ordered) // 2], 2),
        "max": round(ordered[-1], 2),
        "count": len(ordered),
    }
