"""The parts of one server, put together from its configuration."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from features.registry import FeatureRegistry
from features.store import RecordStore
from features.tier_slices import tier_codes
from index.handle import Handle
from index.release_contract import Expected, Releases
from index.releases import ReleaseStore
from models.live_towers import read_live_towers
from schemas.errors import Refused, RetryableError
from schemas.logs import ReleasePublished
from schemas.tiers import Tiers, VersionPolicy, single_tier

from .clock import Clock
from .delta_follower import DeltaFollower
from .delta_reader import DeltaPolicy, FreshFeed
from .draining import Draining
from .explain import Explanation, Explanations, explain
from .ledger import SpendLedger
from .live_release import Assembly, Awaiting, LiveRelease, ReleaseLoader, Served
from .pipeline import FunnelPolicy, Pipeline
from .ranked import Ranked
from .ranking_log import LogLimits, RankingLogWriter
from .recent import RecentRequests
from .recorder import Recorder
from .release_watcher import ReleaseWatcher, Source
from .remote_leaves import Leaves
from .rollover_status import read_rollover
from .root_release import behind_leaves
from .status import ReadWorkerStatus, Status, status_of
from .swaps import SwapHistory
from .telemetry import ServingTelemetry
from .tier_facts import Before
from .user_reader import UserReader
from .version_lag import version_order

RollBack = Callable[[str, str, Expected], ReleasePublished]
"""Takes actor, reason and the release that has to be live (`...`: whatever is). Raises Refused."""


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
    worker_status: ReadWorkerStatus | None = None
    version_policy: VersionPolicy = "enforce"
    tiers: Tiers | None = None
    releases: Releases | None = None
    """None: on this machine's disk, in `data`."""
    roll_back: RollBack | None = None
    """How to go back a release; None: CURRENT moves, and nothing else."""
    leaves: Leaves | None = None
    """Where the Pins lie when they do not lie in this process: then it is a root."""
    index_device: str = "cpu"
    """Where rows are searched; anywhere else than on the cpu it is an exact scan by torch."""
    fresh: Callable[[], FreshFeed] | None = None
    """Connects to the topics that the delta segment is read from; None: what is served is the release."""
    delta: DeltaPolicy = field(default_factory=DeltaPolicy)
    new_request_id: Callable[[], str] = lambda: uuid4().hex


@dataclass(frozen=True)
class ServingParts:
    """A server without its HTTP edge. `watcher.check()` loads what CURRENT names."""

    config: ServingConfig
    handle: Handle[Served]
    releases: Releases
    ledger: SpendLedger
    pipeline: Pipeline
    recorder: Recorder
    history: SwapHistory
    watcher: ReleaseWatcher
    follower: DeltaFollower | None = None
    """What keeps the delta segment new; None on a server without one."""
    draining: Draining = field(default_factory=Draining)
    _scraping: Lock = field(default_factory=Lock)
    """One scrape at a time: its gauges follow what it finds."""

    @property
    def clock(self) -> Clock:
        """The server's clock."""
        return self.config.clock

    @property
    def admin_token(self) -> str | None:
        """What admin routes ask for; None switches them off."""
        return self.config.admin_token

    def roll_back(self, actor: str, reason: str, expected: Expected) -> ReleasePublished:
        """Make the live release's predecessor live again, while `expected` is live. Raises Refused."""
        if self.config.roll_back is not None:
            return self.config.roll_back(actor, reason, expected)
        return self.releases.rollback(
            actor=actor,
            reason=reason,
            expected_current=expected,
            registry_hash=self.config.registry.content_hash,
        )

    def live(self) -> LiveRelease | None:
        """The release that a request starting now would be answered from; for display only."""
        with self.handle.lease() as release:
            return None if isinstance(release, Awaiting) else release

    def current(self) -> str | None:
        """What CURRENT names; for display, so None too when it cannot be read: the history says why."""
        try:
            return self.releases.last_seen()
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
        worker, current = self.config.worker_status, self.current()
        with self.handle.lease() as release:
            live = None if isinstance(release, Awaiting) else release
            found = status_of(
                live, self.watcher.facts_of(live), current, self.recorder, self.history, self.clock
            )
        return found.model_copy(
            update={
                "embedded_broker": self.config.embedded_broker,
                "worker": None if worker is None else worker(),
                "version_policy": self.config.version_policy,
                "delta": None if self.follower is None else self.follower.status(),
                "rollover": read_rollover(self.config.data, self.clock.now_ms()),
            }
        )

    def metrics(self) -> tuple[bytes, str]:
        """The Prometheus exposition and its content type."""
        now_ms, telemetry = self.clock.now_ms(), self.config.telemetry
        with self._scraping:
            telemetry.rollover.show(read_rollover(self.config.data, now_ms))
            return telemetry.exposition(self.live(), now_ms)

    def start(self) -> None:
        """Begin to follow CURRENT, and the leaves of a root."""
        if self.config.leaves is not None:
            self.config.leaves.start()
        if self.follower is not None:
            self.follower.start()
        self.watcher.start(self.config.poll_seconds)

    def close(self) -> None:
        """Stop following CURRENT and put the ranking log on disk."""
        self.watcher.close()
        if self.follower is not None:
            self.follower.close()
        if self.config.leaves is not None:
            self.config.leaves.close()
        self.recorder.ranking_log.close()


def build_parts(config: ServingConfig) -> ServingParts:
    """Put a server together. Opens the log directory; loads nothing until `start` or `watcher.check`."""
    # Freeing a large release takes a while, so the watcher's thread does it, not the last request's.
    retired: deque[Callable[[], None]] = deque()
    clock, ledger, history = config.clock, SpendLedger(), SwapHistory()
    telemetry = config.telemetry
    handle: Handle[Served] = Handle(Awaiting(), retired.append)
    releases = config.releases or ReleaseStore(config.data / "releases")
    assembly = Assembly(
        config.registry.content_hash, config.policy.auction, ledger, clock.now_ms, config.version_policy
    )
    telemetry.release.policy(config.version_policy)
    loader = ReleaseLoader(releases, config.data / "towers", config.registry, assembly, config.index_device)
    follower = None if config.leaves is not None else delta_follower(config)
    if config.leaves is not None:
        source = behind_leaves(config.leaves, loader)
    else:
        load = loader.load if follower is None else caught_up(loader.load, follower)
        source = Source(releases.current, load, releases.last_seen)
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
        follower=follower,
        watcher=ReleaseWatcher(
            source,
            handle,
            history=history,
            telemetry=telemetry,
            clock=clock,
            retired=retired,
            before=lambda now_ms: Before(
                now_ms, _version_order(releases, config.data / "towers"), config.tiers
            ),
        ),
    )


def delta_follower(config: ServingConfig) -> DeltaFollower | None:
    """What keeps the delta segment new, or None without topics to read it from."""
    if config.fresh is None:
        return None
    telemetry, tiers = config.telemetry, config.tiers

    def became(pin_ids: npt.NDArray[np.int64], seconds: npt.NDArray[np.float64]) -> None:
        declared = tiers or single_tier("realtime")
        owners = tier_codes(pin_ids, declared)
        by_tier = {tier.name: seconds[owners == place] for place, tier in enumerate(declared.tiers)}
        telemetry.release.servable("delta", {name: own for name, own in by_tier.items() if len(own)})

    return DeltaFollower(config.fresh, config.delta, config.clock, telemetry.delta.show, became)


def caught_up(load: Callable[[str], LiveRelease], follower: DeltaFollower) -> Callable[[str], LiveRelease]:
    """`load`, and then the release's delta segment, as far as it comes within the time that it has."""

    def load_both(release_id: str) -> LiveRelease:
        release = load(release_id)
        follower.prepare(release)
        return release

    return load_both


def _version_order(releases: Releases, towers: Path) -> list[str]:
    """Tower versions, oldest first; none where the files that say so cannot be read."""
    try:
        return version_order(releases.audit(), read_live_towers(towers))
    except (Refused, RetryableError, OSError):
        return []
