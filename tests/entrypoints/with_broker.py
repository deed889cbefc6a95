"""`skewless` against a broker, and messages for it."""

import os
import subprocess
import sys
from pathlib import Path

from confluent_kafka import Producer
from pydantic import BaseModel

from schemas.codec import encode
from streams.kafka import KafkaSettings, producer_config

ROOT = Path(__file__).parents[2]


def produce(broker: str, *messages: tuple[str, BaseModel]) -> None:
    """Send messages under their keys, each to its own topic."""
    producer = Producer(producer_config(KafkaSettings(bootstrap_servers=broker)))
    for key, message in messages:
        producer.produce(str(getattr(message, "type_name")), encode(message), key.encode())  # noqa: B009
    producer.flush()


def skewless(*arguments: str, broker: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    settings = {"SKEWLESS_DATA_DIR": str(data_dir), "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": broker}
    return subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment | settings | {"NO_COLOR": "1"},
        timeout=60,
    )
