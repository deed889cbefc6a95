"""pin.embedded.v1 through a consumer that Kafka gives errors."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from schemas.errors import RetryableError
from streams.embedded_topic import KafkaEmbeddedTopic


class _Refusing:
    """A consumer whose every call fails as it does while a partition has no leader."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(*arguments: Any, **named: Any) -> Any:
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION, name))

        return fail


TOPIC = KafkaEmbeddedTopic(_Refusing())  # type: ignore[arg-type]  # as far as it is asked


@pytest.mark.parametrize(
    ("call", "failed"),
    [
        pytest.param(TOPIC.ends, "list_topics", id="ends"),
        pytest.param(lambda: TOPIC.read_from({0: 1}), "assign", id="read_from"),
        pytest.param(lambda: TOPIC.read(1, 0.0), "consume", id="read"),
        pytest.param(lambda: TOPIC.lag({0: 1}), "get_watermark_offsets", id="lag"),
    ],
)
def test_what_kafka_cannot_do_now_ends_a_cutter_as_unavailable(
    call: Callable[[], object], failed: str
) -> None:
    with pytest.raises(RetryableError, match=failed):
        call()


def test_a_commit_that_fails_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        TOPIC.commit({0: 1})
    assert "commit" in caplog.text
