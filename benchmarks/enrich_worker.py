"""One enrichment worker process of the benchmark: the real worker, on the arguments it is given."""

import time

import torch
from prometheus_client import CollectorRegistry

from benchmarks.peers.arguments import parse_arguments
from entrypoints.signals import until_signalled
from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import RocksStore
from models.predictor import PinTower
from streams.kafka import KafkaSettings
from streams.telemetry import EnrichmentTelemetry
from streams.worker import EnrichmentWorker
from streams.worker_settings import WorkerSettings

FORMS = ("worker",)


def main() -> None:
    """Run until SIGTERM."""
    arguments = parse_arguments(FORMS)
    torch.set_num_threads(arguments.threads)
    tower = PinTower.load(arguments.towers, arguments.version, registry())
    worker = EnrichmentWorker(
        KafkaSettings(bootstrap_servers=arguments.bootstrap_servers, enrichment_group=arguments.group),
        WorkerSettings(name=arguments.state.name),
        RocksStore(arguments.state, PIN_RECORD),
        lambda: [tower],
        EnrichmentTelemetry(CollectorRegistry()),
        time.perf_counter,
    )
    with until_signalled() as stop:
        worker.run(stop.is_set)


if __name__ == "__main__":
    main()
