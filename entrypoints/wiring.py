"""The composition root: settings in, running objects out. The only place that knows every edge."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import RocksStore
from features.user_state import USER_RECORD
from index.releases import ReleaseStore
from models.checkpoint import read_tower_manifest
from models.live_towers import read_live_towers
from models.predictor import PinTower
from schemas.manifests import SnapshotManifest, TowerManifest
from serving.auction import AuctionPolicy
from serving.clock import system_clock
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.pipeline import FunnelPolicy
from serving.telemetry import ServingTelemetry
from streams.cut_policy import CutPolicy, EventTimeCut, WallClockCut
from streams.cutter import Cutter, CutterSettings, Surroundings
from streams.embedded_topic import KafkaEmbeddedTopic
from streams.kafka import KafkaClients, consumer_config
from streams.outlet import Outlet
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings

from .kafka_connection import kafka_settings
from .registry_connection import wire_formats
from .settings import Settings

log = logging.getLogger(__name__)

_LIVE_POLL_SECONDS = 0.5


def now_ms() -> int:
    """Wall clock, milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def release_store(settings: Settings) -> ReleaseStore:
    """Releases of the data directory."""
    return ReleaseStore(settings.releases_dir)


class LiveTowers:
    """LIVE, as loaded towers: looks at the file at most twice a second, loads each version once."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._looked_at = float("-inf")
        self._towers: dict[str, PinTower] = {}

    def __call__(self) -> Sequence[PinTower]:
        """The towers to embed with now, the serving one first; empty when LIVE is not there yet."""
        if self._clock() - self._looked_at >= _LIVE_POLL_SECONDS:
            self._looked_at = self._clock()
            root, device = self._settings.towers_dir, self._settings.device
            self._towers = {
                version: self._towers.get(version) or PinTower.load(root, version, registry(), device)
                for version in read_live_towers(root)
            }
        return tuple(self._towers.values())


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
    how = WorkerSettings(
        name=name,
        tier=settings.tier,
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
            time.monotonic,
            KafkaClients(formats=formats),
        )


def cut_policy(settings: Settings) -> CutPolicy:
    """When the cutter cuts."""
    if settings.cut_every_seconds:
        return WallClockCut(every_seconds=settings.cut_every_seconds)
    return EventTimeCut() if settings.cut_clock == "event" else WallClockCut()


def live_manifests(settings: Settings) -> list[TowerManifest]:
    """Manifests of the live towers, the serving one first."""
    return [
        read_tower_manifest(settings.towers_dir, version) for version in read_live_towers(settings.towers_dir)
    ]


def snapshot_cutter(
    settings: Settings, on_snapshot: Callable[[SnapshotManifest], None]
) -> tuple[Cutter, Consumer]:
    """The cutter of this tier, and its consumer, which the caller closes."""
    kafka = kafka_settings(settings)
    consumer = Consumer(consumer_config(kafka, kafka.cutter_group))
    cutter = Cutter(
        KafkaEmbeddedTopic(consumer),
        CutterSettings(settings.snapshots_dir, settings.tier),
        cut_policy(settings),
        Surroundings(lambda: live_manifests(settings), now_ms, Outlet(kafka, "cutter"), on_snapshot),
    )
    return cutter, consumer


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
    return build_parts(
        ServingConfig(
            data=settings.data_dir,
            registry=registry(),
            clock=system_clock(),
            telemetry=ServingTelemetry(CollectorRegistry()),
            users=users,
            policy=FunnelPolicy(auction=AuctionPolicy(reserve_micros=settings.reserve_price_micros)),
            poll_seconds=0.2,
            admin_token=settings.admin_token.get_secret_value() or None,
            embedded_broker=embedded_broker,
            worker_status=worker_status_reader(settings.status_file("worker-0")),
        )
    )
