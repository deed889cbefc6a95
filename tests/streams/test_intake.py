import numpy as np
import pytest
from confluent_kafka import TopicPartition
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.errors import RetryableError
from streams import intake, topic_admin
from streams.handover import Handover
from streams.intake import Intake
from streams.kafka import KafkaClients, KafkaSettings, ensure_topics
from streams.positions import position_meta
from streams.state_topic import Restored
from streams.telemetry import EnrichmentTelemetry


def test_events_that_are_gone_are_counted_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store, metrics = MemoryStore(PIN_RECORD), CollectorRegistry()
    store.put_many(
        np.empty(0, np.int64), np.empty(0, PIN_RECORD), [], position_meta({("pin.changed.v1", 3): 40})
    )
    made = Intake.__new__(Intake)  # without the connection that its constructor makes
    made._store, made._telemetry = store, EnrichmentTelemetry(metrics)

    start = made._start(TopicPartition("pin.changed.v1", 3, 45), (50, 90), Restored())

    assert start.offset == 50
    labels = {"topic": "pin.changed.v1"}
    assert metrics.get_sample_value("skewless_enrichment_missed_events_total", labels) == 10
    assert caplog.messages == ["pin.changed.v1[3] no longer holds 10 events that the state lacks"]


def test_a_broker_that_does_not_answer_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_ASK_SECONDS", 0.2)
    monkeypatch.setattr(topic_admin, "_ADMIN_TIMEOUT_SECONDS", 0.2)
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    nothing = Handover(lambda _: None, lambda: None, lambda: None, lambda: None)
    telemetry = EnrichmentTelemetry(CollectorRegistry())
    with pytest.raises(RetryableError, match="out of reach"):
        Intake(nowhere, {}, MemoryStore(PIN_RECORD), telemetry, nothing, KafkaClients())
    with pytest.raises(RetryableError, match="out of reach"):
        ensure_topics(nowhere)
