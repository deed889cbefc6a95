"""What `streams.kafka.ensure_topics` asks of a broker, and what the broker's failures mean.

A failure that may pass (no answer in time, a controller that moves) raises RetryableError: the same command
works a moment later. A failure that stays until somebody changes something (a missing right, a setting that
the broker does not take) raises Refused and says what to change.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException

# Public, but missing from the package's __all__.
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic  # type: ignore[attr-defined]

from schemas.errors import Refused, RetryableError

_ADMIN_TIMEOUT_SECONDS = 15.0
_ANSWER_SECONDS = 5.0
"""How long the client waits for an answer beyond the time that the broker may take for the work."""
_METADATA_POLL_SECONDS = 0.1

_NO_RIGHT = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_NOT_TAKEN = (
    KafkaError.POLICY_VIOLATION,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_REQUEST,
    KafkaError.TOPIC_EXCEPTION,
)
"""The broker takes such a topic neither now nor later."""


def metadata(admin: AdminClient) -> ClusterMetadata:
    """The cluster and its topics. Raises RetryableError when no broker answers."""
    try:
        return admin.list_topics(timeout=_ADMIN_TIMEOUT_SECONDS)
    except KafkaException as error:
        raise RetryableError(f"Kafka is out of reach: {error}") from error


def create(admin: AdminClient, topics: Sequence[NewTopic]) -> list[str]:
    """Create these topics; gives the names that were created.

    A topic that exists by now is not among them: another process was faster, or the broker's metadata lags
    behind its own answers. Raises as the module says.
    """
    answers = admin.create_topics(list(topics), operation_timeout=_ADMIN_TIMEOUT_SECONDS) if topics else {}
    return [name for name, answer in answers.items() if _was_created(name, answer)]


def _was_created(name: str, answer: Future[Any]) -> bool:
    try:
        answer.result(_ADMIN_TIMEOUT_SECONDS + _ANSWER_SECONDS)
    except TimeoutError as error:
        raise RetryableError(f"Kafka does not say whether it has created {name}") from error
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        if code not in (*_NO_RIGHT, *_NOT_TAKEN):
            raise RetryableError(f"Kafka has not created {name}: {error.args[0]}") from error
        raise Refused(
            "kafka_topic",
            expected=f"to create topic {name}",
            came=str(error.args[0]),
            fix="Create it by hand, or give this user the right to create topics."
            if code in _NO_RIGHT
            else "Create it by hand as the broker takes it, or correct SKEWLESS_KAFKA_REPLICATION_FACTOR.",
        ) from error
    return True


def partitions(admin: AdminClient, names: Sequence[str]) -> dict[str, int]:
    """How many partitions each topic has, as soon as the broker shows them all.

    Raises RetryableError when it does not show them in time.
    """
    if not names:
        return {}
    deadline = time.monotonic() + _ADMIN_TIMEOUT_SECONDS
    while True:
        topics = metadata(admin).topics
        found = {name: len(topics[name].partitions) for name in names if name in topics}
        if all(found.get(name) for name in names):
            return found
        if time.monotonic() > deadline:
            hidden = [name for name in names if not found.get(name)]
            raise RetryableError(f"Kafka does not show topics that it says exist: {', '.join(hidden)}")
        time.sleep(_METADATA_POLL_SECONDS)


def configurations(admin: AdminClient, names: Sequence[str]) -> dict[str, Any]:
    """Topic -> its configuration by setting. Raises as the module says."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    answers = admin.describe_configs(resources) if resources else {}
    return {resource.name: _described(resource.name, answer) for resource, answer in answers.items()}


def _described(topic: str, answer: Future[Any]) -> Any:
    try:
        return answer.result(_ADMIN_TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise RetryableError(f"Kafka does not say how {topic} is configured") from error
    except KafkaException as error:
        if error.args[0].code() not in _NO_RIGHT:
            raise RetryableError(f"Kafka does not say how {topic} is configured: {error.args[0]}") from error
        raise Refused(
            "kafka_topic",
            expected=f"to read the configuration of topic {topic}",
            came=str(error.args[0]),
            fix="Give this user the right DescribeConfigs on our topics.",
        ) from error
