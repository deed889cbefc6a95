"""The state of a Faust process belongs to one Kafka cluster."""

from pathlib import Path

import pytest

from schemas.errors import Refused
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings
from streams.step_cluster import tie_to_cluster


def test_state_of_another_cluster_is_refused(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        tie_to_cluster(settings, tmp_path)
        tie_to_cluster(settings, tmp_path)
        (tmp_path / "CLUSTER").write_text("another")
        with pytest.raises(Refused, match="state_of_another_cluster"):
            tie_to_cluster(settings, tmp_path)
