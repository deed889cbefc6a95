"""A worker process with a fake tower, for the tests that kill one.

`python -m tests.streams.enrichment_process BOOTSTRAP STATE NAME BATCH_EVENTS [options]`, in the repository.
With `--failpoint` it ends itself at that point (see `failpoints`).
"""

import argparse
import faulthandler
import logging
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from entrypoints.signals import until_signalled
from features.pin_state import PIN_RECORD
from features.store import RocksStore
from streams.kafka import KafkaSettings
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings
from tests.fakes import FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.failpoints import Failpoint, arm
from tests.streams.kill_suite.processes import READY

log = logging.getLogger(__name__)


def main() -> None:
    """Run until SIGTERM, or to the failpoint."""
    arguments = _arguments()
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.failpoint:
        arm(Failpoint(arguments.failpoint, arguments.nth, arguments.marker))
    towers = [FakePinTower(version=version) for version in (VERSION_A, VERSION_B)[: arguments.towers]]
    worker = EnrichmentWorker(
        KafkaSettings(
            bootstrap_servers=arguments.bootstrap,
            enrichment_group=arguments.group,
            session_timeout_ms=arguments.session_timeout_ms,
            heartbeat_interval_ms=arguments.session_timeout_ms // 5,
        ),
        WorkerSettings(
            name=arguments.name,
            batch_events=arguments.batch_events,
            poll_seconds=0.02,
            backfill_chunk_pins=32,
            flush_seconds=arguments.flush_seconds,
            retry_seconds=0.2,
        ),
        RocksStore(arguments.state, PIN_RECORD),
        lambda: towers,
        EnrichmentTelemetry(CollectorRegistry()),
        time.monotonic,
    )

    with until_signalled() as stop:
        log.info(READY)
        worker.run(stop.is_set)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("state", type=Path)
    parser.add_argument("name")
    parser.add_argument("batch_events", type=int)
    parser.add_argument("--group", default=KafkaSettings().enrichment_group)
    parser.add_argument("--session-timeout-ms", type=int, default=1_500)
    parser.add_argument("--flush-seconds", type=float, default=0.5)
    parser.add_argument("--towers", type=int, default=1)
    parser.add_argument("--failpoint")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--marker", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
