"""The composition root: settings in, running objects out. The only place that knows every edge."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch
from confluent_kafka import Consumer
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import RocksStore
from features.user_state import USER_RECORD
from models.live_towers import read_live_towers
from schemas.artefacts import write_atomic
from schemas.errors import Refused
from schemas.file_locks import held_alone
from schemas.manifests import SnapshotManifest
from serving.auction import AuctionPolicy
from serving.clock import system_clock
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.pipeline import FunnelPolicy
from serving.telemetry import ServingTelemetry
from streams.cut_policy import CutPolicy, EventTimeCut, WallClockCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings
from streams.cutter_status import read_cutter_status
from streams.embedded_topic import KafkaEmbeddedTopic
from streams.fresh_rows import KafkaFreshRows
from streams.kafka import KafkaClients, consumer_config
from streams.outlet import Outlet
from streams.snapshot_telemetry import SnapshotTelemetry
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import Times, WorkerSettings

from .clocks import now_ms, since_boot_seconds
from .kafka_connection import kafka_settings
from .loaded_towers import LiveManifests, LiveTowers
from .registry_connection import wire_formats
from .rolling_back import roll_back
from .serving_rules import delta_policy, live_poll_seconds
from .settings import Settings
from .store_connection import release_store
from .wiring_shards import root_leaves

log = logging.getLogger(__name__)


def wait_for_live_tower(settings: Settings, stopped: Callable[[], bool]) -> None:
    """Return when LIVE names a tower, or when told to stop. Says once that it waits."""
    if not read_live_towers(settings.towers_dir):
        log.warning(
            "waiting: %s names no tower; `skewless train --live serving` or `skewless towers live` helps",
            settings.towers_dir / "LIVE",
        )
    while not read_live_towers(settings.towers_dir) and not stopped():
        time.sleep(0.1)


@contextmanager
def enrichment_worker(
    settings: Settings, worker: int, metrics: CollectorRegistry
) -> Iterator[EnrichmentWorker]:
    """One enrichment worker with its own state, which is closed at the end."""
    name = f"worker-{worker}"
    torch.set_num_threads(settings.threads)
    # With threads of its own a tower computes outside of ours.
    cpu_seconds = time.thread_time if settings.threads == 1 else time.process_time
    how = WorkerSettings(
        name=name,
        tiers=settings.tiers(),
        backfill=settings.backfill,
        batch_events=settings.batch_events,
        flush_seconds=settings.state_flush_seconds,
        flush_chunk_pins=settings.state_flush_chunk_pins,
        watchdog_seconds=settings.watchdog_seconds,
        status_path=settings.status_file(name),
    )
    with RocksStore(settings.state_dir(worker), PIN_RECORD) as store, wire_formats(settings) as formats:
        yield EnrichmentWorker(
            kafka_settings(settings),
            how,
            store,
            LiveTowers(settings),
            EnrichmentTelemetry(metrics),
            since_boot_seconds,
            KafkaClients(formats=formats),
            Times(cpu_seconds=cpu_seconds),
        )


def cut_policy(settings: Settings) -> CutPolicy:
    """When the cutter cuts."""
    if settings.cut_every_seconds:
        return WallClockCut(every_seconds=settings.cut_every_seconds)
    return EventTimeCut() if settings.cut_clock == "event" else WallClockCut()


@contextmanager
def cutting_alone(settings: Settings) -> Iterator[None]:
    """Be the cutter of this tier. Raises Refused while another process is, or for a batch tier."""
    tier = settings.tiers().named(settings.tier)
    if tier.policy == "batch":
        raise Refused(
            "batch_tier",
            "a realtime tier, whose Pins workers embed",
            f"{tier.name}, a batch tier",
            "`skewless embed` writes the snapshots of a batch tier; SKEWLESS_TIER names another one.",
        )
    refusal = Refused(
        "cutter_running",
        f"no other cutter of tier {tier.name} on {settings.data_dir}",
        "one that is running",
        "End it first (SIGTERM). Two would write the same snapshots twice and commit over each other.",
    )
    with held_alone(settings.cutter_lock(tier.name), refusal):
        yield


def snapshot_cutter(
    settings: Settings, on_snapshot: Callable[[SnapshotManifest], None]
) -> tuple[Cutter, Consumer]:
    """The cutter of this tier, and its consumer, which the caller closes."""
    kafka, tiers = kafka_settings(settings), settings.tiers()
    # Offsets tell lag monitors how far a cutter is: with several, each has a group of its own.
    group = kafka.cutter_group if len(tiers.tiers) == 1 else f"{kafka.cutter_group}-{settings.tier}"
    consumer = Consumer(consumer_config(kafka, group))
    status = settings.status_file(f"cutter-{settings.tier}")
    around = CutterSurroundings(
        LiveManifests(settings),
        now_ms,
        Outlet(kafka, "cutter"),
        on_snapshot,
        read_cutter_status(status),
        lambda now: write_atomic(status, now.model_dump_json().encode()),
    )
    where = CutterSettings(settings.snapshots_dir, tiers.named(settings.tier))
    return Cutter(KafkaEmbeddedTopic(consumer), where, cut_policy(settings), around), consumer


def snapshot_telemetry(settings: Settings) -> SnapshotTelemetry:
    """Metrics of the snapshots in the data directory, and of what its cutters say."""
    batch = {tier.name for tier in settings.tiers().tiers if tier.policy == "batch"}
    return SnapshotTelemetry(settings.snapshots_dir, settings.status_file("any").parent, time.time, batch)


def worker_status_reader(path: Path) -> Callable[[], dict[str, Any]]:
    """What the enrichment worker last said about itself; empty when there is none on this host."""

    def read() -> dict[str, Any]:
        try:
            status: dict[str, Any] = orjson.loads(path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}
        return status

    return read


def serving_parts(settings: Settings, *, embedded_broker: bool) -> ServingParts:
    """A server over the data directory."""
    users = None
    if settings.users_dir.is_dir():
        users = RocksStore(settings.users_dir, USER_RECORD, read_only=True)
    metrics, clock = CollectorRegistry(), system_clock()
    return build_parts(
        ServingConfig(
            data=settings.data_dir,
            registry=registry(),
            clock=clock,
            telemetry=ServingTelemetry(metrics),
            leaves=root_leaves(settings, metrics, clock),
            users=users,
            policy=FunnelPolicy(auction=AuctionPolicy(reserve_micros=settings.reserve_price_micros)),
            poll_seconds=live_poll_seconds(settings),
            releases=release_store(settings),
            roll_back=lambda actor, reason, expected: roll_back(settings, actor, reason, expected).move,
            admin_token=settings.admin_token.get_secret_value() or None,
            embedded_broker=embedded_broker,
            worker_status=worker_status_reader(settings.status_file("worker-0")),
            version_policy=settings.version_policy,
            index_device=settings.index_device,
            tiers=settings.tiers(),
            fresh=fresh_rows(settings),
            delta=delta_policy(settings),
        )
    )


def fresh_rows(settings: Settings) -> Callable[[], KafkaFreshRows] | None:
    """What the delta segment is read from; None where there is no broker, or none is wanted.

    Raises Refused for a connection that is not allowed: here, where it ends the command, and not in a thread.
    """
    if settings.delta == "off" or not settings.kafka_bootstrap_servers:
        return None
    kafka = kafka_settings(settings)
    return lambda: KafkaFreshRows(kafka)
