"""A Kafka cluster inside this process, so that demo and tests need neither Docker nor Java.

librdkafka, which comes inside the confluent-kafka wheel, can serve the real wire protocol on a
loopback port (`rd_kafka_mock_cluster_new`); any Kafka client of this host can connect to it.

Its limits, all hard:

- a partition keeps 5 MiB or 100,000 messages, whichever is reached first; the oldest are evicted
  without a word, so a producer has to wait for its consumers;
- memory only: everything is gone when this process ends;
- no admin API (topics are created here, at start), no compaction, no retention;
- no transactions and no fencing of producers;
- no offsets by time; no TLS, SASL or ACLs.

librdkafka calls the API experimental. A run on it proves nothing about durability.
"""

import ctypes
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka

from schemas.errors import Refused
from schemas.topics import DEAD_LETTERED, DLQ_PARTITIONS, TOPICS

WARNING = "embedded broker: demo and tests only"

CLUSTER_ID_PREFIX = "mockCluster"
"""How the cluster id of such a broker starts; `streams.kafka.ensure_topics` tells it by this."""

PARTITION_MAX_MESSAGES = 100_000
PARTITION_MAX_BYTES = 5 * 1024 * 1024

_PRODUCER = 0
_ERROR_TEXT_BYTES = 512


def default_topics() -> dict[str, int]:
    """Every topic of the system and the dead-letter topics of what is read here -> partitions."""
    topics = {topic.name: topic.partitions for topic in TOPICS.values()}
    return topics | {topic.dlq: DLQ_PARTITIONS for topic in DEAD_LETTERED}


class EmbeddedBroker:
    """An in-process Kafka cluster of one broker. A context manager; `bootstrap_servers` is its address.

    Raises Refused when the installed confluent-kafka has no librdkafka that can do it.
    """

    def __init__(self, topics: Iterable[tuple[str, int]] | None = None) -> None:
        """`topics`: (name, partitions) to create, by default every one of the system."""
        self._library = _load()
        self._client = self._new_client()
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            self.close()
            raise _refused("rd_kafka_mock_cluster_new returned no cluster")
        # A group starts at its first member; Kafka's own 3 s of waiting for more help nobody here.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self._create(list(default_topics().items() if topics is None else topics))
        self.bootstrap_servers: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def _create(self, topics: list[tuple[str, int]]) -> None:
        def create(topic: tuple[str, int]) -> int:
            name, partitions = topic
            error: int = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
            return error

        # All at once: librdkafka's cluster thread now and then misses that it was called and looks again
        # a second later, which one after the other cost five seconds.
        with ThreadPoolExecutor(max_workers=64) as threads:
            errors = list(threads.map(create, topics))
        for (name, _), error in zip(topics, errors, strict=True):
            if error:
                self.close()
                raise _refused(f"error {error} on creating topic {name}")

    def _new_client(self) -> int:
        text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        conf = self._library.rd_kafka_conf_new()
        # The client that hosts the cluster connects to nothing and has nothing to say.
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", text, len(text))
        client: int | None = self._library.rd_kafka_new(_PRODUCER, conf, text, len(text))
        if not client:
            raise _refused(text.value.decode(errors="replace"))
        return client

    def close(self) -> None:
        """End the cluster and drop everything on it. Twice is harmless."""
        if getattr(self, "_cluster", None):
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._cluster = None
        if self._client:
            self._library.rd_kafka_destroy(self._client)
            self._client = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refused(came: str) -> Refused:
    return Refused(
        "embedded_broker",
        expected="a confluent-kafka wheel with librdkafka and its mock cluster inside",
        came=came,
        fix="Install confluent-kafka>=2.16.1 from a wheel, or set the address of a real Kafka.",
    )


def _library_path() -> Path:
    package = Path(confluent_kafka.__file__).parent
    for folder in (package.parent / "confluent_kafka.libs", package / ".dylibs"):
        for path in sorted(folder.glob("librdkafka*")):
            # The wheel for Linux has librdkafka++ nowhere and one librdkafka with a hash in its name.
            return path
    raise _refused(f"no librdkafka beside {package}")


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_library_path()))
    pointer, text, number, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    signatures: dict[str, tuple[object, list[object]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, size]),
        "rd_kafka_new": (pointer, [number, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise _refused(str(error)) from error
    return library
