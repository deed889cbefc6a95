from typing import Any

import numpy as np
import pytest
from confluent_kafka import TopicPartition
from prometheus_client import CollectorRegistry

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from streams.intake import Intake
from streams.positions import position_meta
from streams.telemetry import EnrichmentTelemetry


class _ShortTopic:
    """A consumer of a topic whose first 50 events were deleted."""

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        return 50, 90


def test_events_that_are_gone_are_counted_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    store, metrics = MemoryStore(PIN_RECORD), CollectorRegistry()
    store.put_many(
        np.empty(0, np.int64), np.empty(0, PIN_RECORD), [], position_meta({("pin.changed.v1", 3): 40})
    )
    intake = Intake.__new__(Intake)  # without the connection that its constructor makes
    intake._store, intake._telemetry = store, EnrichmentTelemetry(metrics)
    consumer: Any = _ShortTopic()

    start = intake._start(consumer, TopicPartition("pin.changed.v1", 3, 45))

    assert start.offset == 40
    labels = {"topic": "pin.changed.v1"}
    assert metrics.get_sample_value("skewless_enrichment_missed_events_total", labels) == 10
    assert caplog.messages == ["pin.changed.v1[3] no longer holds 10 events that the state lacks"]
