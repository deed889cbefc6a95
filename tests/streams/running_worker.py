"""An enrichment worker in a thread of the test's own process."""

import threading
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from features.store import RecordStore
from streams.kafka import KafkaSettings
from streams.telemetry import EnrichmentTelemetry
from streams.tower_output import LiveTowers, PinEmbedder
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings

DEADLINE_SECONDS = 30.0
SETTINGS = WorkerSettings(poll_seconds=0.02, status_interval_seconds=0.05, retry_seconds=0.05)


class RunningWorker:
    """Runs until `stop`."""

    def __init__(
        self,
        kafka: KafkaSettings,
        store: RecordStore,
        towers: Sequence[PinEmbedder] | LiveTowers,
        settings: WorkerSettings = SETTINGS,
    ) -> None:
        self.registry = CollectorRegistry()
        self._stop, self._failure = threading.Event(), list[BaseException]()
        telemetry = EnrichmentTelemetry(self.registry)
        live = towers if callable(towers) else lambda: towers
        self._worker = EnrichmentWorker(kafka, settings, store, live, telemetry, time.monotonic)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._worker.run(self._stop.is_set)
        except BaseException as error:
            self._failure.append(error)

    def stop(self) -> None:
        """Stop in good order; raises what the worker raised."""
        self._stop.set()
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure[0]

    def failed(self) -> None:
        """Wait for the worker to end by itself; raises what it raised."""
        self._thread.join(DEADLINE_SECONDS)
        self.stop()

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"skewless_enrichment_{name}", labels) or 0.0

    def wait(self, name: str, at_least: float, **labels: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.value(name, **labels) < at_least:
            assert self._thread.is_alive(), self._failure
            assert time.monotonic() < deadline, (name, labels, self.value(name, **labels))
