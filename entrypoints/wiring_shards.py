"""Puts leaves and roots together from the settings."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.shard_slices import Shard
from schemas.errors import Refused
from serving.clock import Clock, system_clock
from serving.delta_follower import DeltaFollower
from serving.delta_reader import FreshFeed
from serving.delta_telemetry import DeltaTelemetry
from serving.leaf_app import LeafParts
from serving.leaf_feed import ShardFeed, caught_up
from serving.leaf_releases import HeldReleases
from serving.leaf_search import LoadedShard, ShardLoader
from serving.leaf_watcher import LeafWatcher
from serving.remote_leaves import LeafPolicy, Leaves
from serving.shard_telemetry import LeafTelemetry, RootTelemetry

from .serving_rules import delta_policy, live_poll_seconds
from .settings import Settings
from .store_connection import release_store


def leaf_addresses(text: str) -> list[str]:
    """`host:port,…`, the leaf of shard 1 first. Raises Refused."""
    addresses = [one.strip() for one in text.split(",") if one.strip()]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            fix = "Set SKEWLESS_LEAVES to host:port of every leaf, in the order of their shards."
            raise Refused("bad_leaves", "host:port,…", repr(address[:80]), fix)
    if len(set(addresses)) != len(addresses):
        fix = "Each leaf has an address of its own."
        raise Refused("bad_leaves", "every address once", text[:200], fix)
    return addresses


def root_leaves(settings: Settings, metrics: CollectorRegistry, clock: Clock) -> Leaves | None:
    """The leaves of a root; None where the server holds every Pin itself."""
    addresses = leaf_addresses(settings.leaves)
    if not addresses:
        return None
    policy = LeafPolicy(
        deadline_seconds=settings.leaf_deadline_seconds,
        down_seconds=settings.leaf_down_seconds,
        quorum=settings.leaf_quorum,
    )
    return Leaves(addresses, policy, clock, RootTelemetry(metrics))


def leaf_parts(settings: Settings, shard: Shard, fresh: Callable[[], FreshFeed] | None) -> LeafParts:
    """One leaf over the data directory or the object store; `fresh` connects to the topics of its delta."""
    clock, releases, metrics = system_clock(), release_store(settings), CollectorRegistry()
    delta = None if fresh is None else DeltaTelemetry(metrics)
    held, telemetry = HeldReleases(clock.seconds), LeafTelemetry(metrics, delta)
    loader = ShardLoader(
        releases,
        registry(),
        shard,
        settings.reserve_price_micros,
        clock,
        settings.version_policy,
        index_device=settings.index_device,
    )
    load: Callable[[str], LoadedShard] = loader.load
    follower = None
    if fresh is not None and delta is not None:
        policy = delta_policy(settings)
        follower = DeltaFollower(lambda: ShardFeed(fresh(), shard), policy, clock, delta.show, _became)
        load = caught_up(load, follower)
    watcher = LeafWatcher(releases.current, load, held, clock, telemetry.loaded, releases.last_seen)
    return LeafParts(shard, held, watcher, telemetry, clock, live_poll_seconds(settings), follower)


def _became(pin_ids: npt.NDArray[np.int64], seconds: npt.NDArray[np.float64]) -> None:
    """Ignored: a Pin is servable when a root serves it, so leaves do not count it."""
