"""The real Kafka of tests marked `kafka`: one that is named, or one of our own, or a skip that says why.

`KAFKA_BOOTSTRAP_SERVERS` names a running cluster: it is used as it is and never killed, and nothing on it
is deleted. `KAFKA_HOME` names a distribution: a broker of it is started for the run. Everything shares
that broker, so a test takes group names of its own; one that needs empty topics, or kills the broker,
takes `empty_kafka`, and one that is to run on either kind of broker `empty_broker`.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, ensure_topics
from streams.local_kafka import LocalKafka

# Groups with a session shorter than Kafka's 6 s let a test see a dead member sooner.
SHORT_SESSIONS = {"group.min.session.timeout.ms": "1000"}

EMBEDDED, KAFKA = "embedded broker", "Kafka"
_ADMIN_SECONDS = 15.0


@dataclass(frozen=True)
class KafkaUnderTest:
    """A running broker with the topics of the system on it. `local` is None when it is no Kafka of ours."""

    bootstrap_servers: str
    local: LocalKafka | None
    kind: str = KAFKA

    def settings(self, name: str, **overrides: Any) -> KafkaSettings:
        """Settings with groups of this test alone."""
        groups = {"enrichment_group": f"{name}-enrichment", "cutter_group": f"{name}-cutter"}
        return KafkaSettings.model_validate(
            {"bootstrap_servers": self.bootstrap_servers} | groups | overrides
        )

    def ours(self) -> LocalKafka:
        """The broker's process; skips the test when somebody else's cluster was named."""
        if self.local is None:
            pytest.skip("this would alter or kill the cluster that KAFKA_BOOTSTRAP_SERVERS names")
        return self.local


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """The distribution to start brokers of one's own from."""
    home = os.environ.get("KAFKA_HOME")
    if home is None:
        pytest.skip("needs a broker of its own: KAFKA_HOME names no Kafka distribution")
    return Path(home)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaUnderTest]:
    """A running Kafka with our topics."""
    named, home = os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), os.environ.get("KAFKA_HOME")
    if named is not None:
        ensure_topics(KafkaSettings(bootstrap_servers=named))
        yield KafkaUnderTest(named, None)
    elif home is not None:
        with LocalKafka(Path(home), tmp_path_factory.mktemp("kafka"), SHORT_SESSIONS) as local:
            ensure_topics(KafkaSettings(bootstrap_servers=local.bootstrap_servers))
            yield KafkaUnderTest(local.bootstrap_servers, local)
    else:
        pytest.skip("neither KAFKA_BOOTSTRAP_SERVERS nor KAFKA_HOME names a Kafka")


@pytest.fixture
def empty_kafka(kafka: KafkaUnderTest) -> Iterator[KafkaUnderTest]:
    """A Kafka of ours with nothing on its topics, also for a test that kills it: it runs again afterwards."""
    local = kafka.ours()
    _delete_topics(kafka)
    ensure_topics(kafka.settings("topics"))
    yield kafka
    local.start()


@pytest.fixture(params=[EMBEDDED, pytest.param(KAFKA, marks=pytest.mark.kafka)])
def empty_broker(request: pytest.FixtureRequest) -> Iterator[KafkaUnderTest]:
    """A broker with nothing on its topics: an embedded one, and then a Kafka."""
    if request.param == KAFKA:
        yield request.getfixturevalue("empty_kafka")
        return
    with EmbeddedBroker() as broker:
        yield KafkaUnderTest(broker.bootstrap_servers, None, EMBEDDED)


def _delete_topics(kafka: KafkaUnderTest) -> None:
    """Delete all but Kafka's own, and wait until none is shown: the broker's metadata lags its answers."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    names = _topics(admin)
    for answer in (admin.delete_topics(names) if names else {}).values():
        answer.result(_ADMIN_SECONDS)
    deadline = time.monotonic() + _ADMIN_SECONDS
    while left := _topics(admin):
        assert time.monotonic() < deadline, f"deleted, and still there: {left}"


def _topics(admin: AdminClient) -> list[str]:
    names = admin.list_topics(timeout=_ADMIN_SECONDS).topics
    return [name for name in names if not name.startswith("__")]
