"""The parts of one server, put together from its configuration."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from features.registry import FeatureRegistry
from features.store import RecordStore
from index.handle import Handle
from index.releases import ReleaseStore
from schemas.errors import Refused

from .clock import Clock
from .explain import Explanation, Explanations, explain
from .ledger import SpendLedger
from .live_release import Assembly, Awaiting, LiveRelease, ReleaseLoader, Served
from .pipeline import FunnelPolicy, Pipeline
from .ranked import Ranked
from .ranking_log import LogLimits, RankingLogWriter
from .recent import RecentRequests
from .recorder import Recorder
from .release_watcher import ReleaseWatcher
from .status import Status, WorkerStatus, status_of
from .swaps import SwapHistory
from .telemetry import ServingTelemetry
from .user_reader import UserReader


@dataclass(frozen=True)
class ServingConfig:
    """What a server is built from. `data` holds `towers/`, `releases/` and gets `logs/`."""

    data: Path
    registry: FeatureRegistry
    clock: Clock
    telemetry: ServingTelemetry
    users: RecordStore | None = None
    policy: FunnelPolicy = field(default_factory=FunnelPolicy)
    log_limits: LogLimits = field(default_factory=LogLimits)
    poll_seconds: float = 1.0
    admin_token: str | None = None
    embedded_broker: bool = False
    worker_status: WorkerStatus | None = None
    new_request_id: Callable[[], str] = lambda: uuid4().hex


@dataclass(frozen=True)
class ServingParts:
    """A server without its HTTP edge. `watcher.check()` loads what CURRENT names."""

    config: ServingConfig
    handle: Handle[Served]
    releases: ReleaseStore
    ledger: SpendLedger
    pipeline: Pipeline
    recorder: Recorder
    history: SwapHistory
    watcher: ReleaseWatcher

    @property
    def clock(self) -> Clock:
        """The server's clock."""
        return self.config.clock

    @property
    def admin_token(self) -> str | None:
        """What admin routes ask for; None switches them off."""
        return self.config.admin_token

    def live(self) -> LiveRelease | None:
        """The release that a request starting now would be answered from; for display only."""
        with self.handle.lease() as release:
            return None if isinstance(release, Awaiting) else release

    def current(self) -> str | None:
        """What CURRENT names; for display, so None too when it cannot be read: the history says why."""
        try:
            return self.releases.current()
        except (Refused, OSError):
            return None

    def explain(self, ranked: Ranked, pin_id: int | None) -> Explanation:
        """The funnel of one answer; asks its release about what was filtered, while that is still served."""
        with self.handle.lease() as release:
            if isinstance(release, Awaiting) or release.release_id != ranked.provenance.release_id:
                return explain(ranked, pin_id, None)
            return explain(ranked, pin_id, release)

    def status(self) -> Status:
        """The whole state of the server."""
        worker = self.config.worker_status
        found = status_of(self.live(), self.current(), self.recorder, self.history, self.clock)
        return found.model_copy(
            update={
                "embedded_broker": self.config.embedded_broker,
                "worker": None if worker is None else worker(),
            }
        )

    def start(self) -> None:
        """Begin to follow CURRENT."""
        self.watcher.start(self.config.poll_seconds)

    def close(self) -> None:
        """Stop following CURRENT and put the ranking log on disk."""
        self.watcher.close()
        self.recorder.ranking_log.close()


def build_parts(config: ServingConfig) -> ServingParts:
    """Put a server together. Opens the log directory; loads nothing until `start` or `watcher.check`."""
    # Freeing a large release takes a while, so the watcher's thread does it, not the last request's.
    retired: deque[Callable[[], None]] = deque()
    clock, ledger, history = config.clock, SpendLedger(), SwapHistory()
    telemetry = config.telemetry
    handle: Handle[Served] = Handle(Awaiting(), retired.append)
    releases = ReleaseStore(config.data / "releases")
    assembly = Assembly(config.registry.content_hash, config.policy.auction, ledger, clock.now_ms)
    loader = ReleaseLoader(releases, config.data / "towers", config.registry, assembly)
    log = RankingLogWriter(config.data / "logs", config.log_limits, telemetry.log_row_dropped)
    return ServingParts(
        config=config,
        handle=handle,
        releases=releases,
        ledger=ledger,
        pipeline=Pipeline(
            handle, UserReader(config.users), ledger, config.policy, clock, config.new_request_id
        ),
        recorder=Recorder(telemetry, RecentRequests(), Explanations(), log, clock),
        history=history,
        watcher=ReleaseWatcher(
            releases.current,
            loader.load,
            handle,
            history=history,
            telemetry=telemetry,
            clock=clock,
            retired=retired,
        ),
    )
