"""A worker process with a fake tower, for the tests that kill one.

`python enrichment_process.py BOOTSTRAP STATE NAME BATCH_EVENTS` (run with the repository on the path).
"""

import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD
from features.store import RocksStore
from streams.kafka import KafkaSettings
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker, WorkerSettings, run_until_signalled
from tests.fakes import FakePinTower


def main() -> None:
    """Run until SIGTERM."""
    bootstrap, state, name, batch_events = sys.argv[1:5]
    tower = FakePinTower()
    worker = EnrichmentWorker(
        KafkaSettings(bootstrap_servers=bootstrap, session_timeout_ms=1_500, heartbeat_interval_ms=300),
        WorkerSettings(name=name, batch_events=int(batch_events), poll_seconds=0.02),
        RocksStore(Path(state), PIN_RECORD),
        lambda: [tower],
        EnrichmentTelemetry(CollectorRegistry()),
        time.monotonic,
    )
    run_until_signalled(worker)


if __name__ == "__main__":
    main()
