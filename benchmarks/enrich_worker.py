"""One enrichment worker process of the benchmark: the real worker, on the arguments it is given."""

import argparse
import time
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import RocksStore
from models.predictor import PinTower
from streams.kafka import KafkaSettings
from streams.telemetry import EnrichmentTelemetry
from streams.signals import run_until_signalled
from streams.worker import EnrichmentWorker, WorkerSettings


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--towers", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tower = PinTower.load(arguments.towers, arguments.version, registry())
    worker = EnrichmentWorker(
        KafkaSettings(bootstrap_servers=arguments.bootstrap_servers, enrichment_group=arguments.group),
        WorkerSettings(name=arguments.group),
        RocksStore(arguments.state, PIN_RECORD),
        lambda: [tower],
        EnrichmentTelemetry(CollectorRegistry()),
        time.perf_counter,
    )
    run_until_signalled(worker.run)


if __name__ == "__main__":
    main()
