"""What a worker gets over by beginning again, and what becomes of it."""

from confluent_kafka import KafkaException

from schemas.errors import RetryableError


class PartitionsLost(Exception):
    """A worker was away for so long that its partitions went to another one."""


TROUBLE = (RetryableError, PartitionsLost, KafkaException)
"""After these the connections are closed and opened again; nothing was committed that is not done."""
