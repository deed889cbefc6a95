"""What Kafka says about itself, gathered in a few requests, for checks to look at (entrypoints/doctor.py)."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

# Public, but missing from the package's __all__.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    OffsetSpec,
)

from .embedded_broker import CLUSTER_ID_PREFIX
from .kafka import KafkaSettings, producer_config

log = logging.getLogger(__name__)

_GROUPS = "skewless"
"""How the names of our consumer groups start."""
_CRITICAL = 2
_ERROR_SECONDS = 0.5
_REQUEST_SECONDS = 3.0
_LEAST_SECONDS = 0.1


@dataclass(frozen=True)
class TopicFacts:
    """One topic as it is. `config` holds what its configuration says, as text; empty when not to be had."""

    partitions: int
    replicas: int
    leaderless: int = 0
    """Partitions that nobody leads: they take and give nothing."""
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KafkaFacts:
    """A cluster as it is. Where `error` says why it could not be asked, the rest is empty."""

    address: str
    error: str | None = None
    refused_login: bool = False
    bad_settings: bool = False
    """Whether nobody was asked, because the client does not take the settings."""
    embedded: bool = False
    brokers: int = 0
    topics: Mapping[str, TopicFacts] = field(default_factory=dict)
    config_error: str | None = None
    lags: Mapping[str, int] = field(default_factory=dict)
    """Consumer group -> messages between what it has committed and the ends."""
    newest_ms: int | None = None
    """The highest timestamp on any topic of ours; None when the broker cannot tell."""
    now_ms: int = 0
    """This host's clock when the newest timestamp was asked for."""


_Offsets = dict[tuple[str, int], tuple[int, int]]
"""Partition -> offset and timestamp."""


class _Ask:
    """Requests to one cluster, all of them within one limit of time."""

    def __init__(self, settings: KafkaSettings, timeout_seconds: float) -> None:
        self._until = time.monotonic() + timeout_seconds
        self.refused_login = False
        overrides = {"log_level": _CRITICAL, "enable.idempotence": False, "error_cb": self._on_error}
        self._admin = AdminClient(producer_config(settings, overrides), logger=log)

    def _on_error(self, error: KafkaError) -> None:
        self.refused_login |= error.code() in (
            KafkaError._AUTHENTICATION,
            KafkaError.SASL_AUTHENTICATION_FAILED,
            KafkaError._SSL,
        )

    def _left(self) -> float:
        return min(_REQUEST_SECONDS, max(_LEAST_SECONDS, self._until - time.monotonic()))

    def metadata(self) -> ClusterMetadata:
        try:
            return self._admin.list_topics(timeout=self._left())
        except KafkaException:
            # The reason of a refusal comes beside the failure, and only when it is asked for.
            self._admin.poll(_ERROR_SECONDS)
            raise

    def configs(self, topics: list[str]) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]
        if not resources:
            return {}
        asked = self._admin.describe_configs(resources, request_timeout=self._left())
        return {
            resource.name: {name: str(entry.value) for name, entry in answer.result(self._left()).items()}
            for resource, answer in asked.items()
        }

    def offsets(
        self, partitions: list[TopicPartition], spec: OffsetSpec
    ) -> dict[tuple[str, int], tuple[int, int]]:
        """Partition -> (offset, timestamp); those without an answer are left out."""
        if not partitions:
            return {}
        asked = self._admin.list_offsets({one: spec for one in partitions}, request_timeout=self._left())
        found: _Offsets = {}
        for one, answer in asked.items():
            try:
                result = answer.result(self._left())
            except KafkaException:
                continue
            found[one.topic, one.partition] = (int(result.offset), int(result.timestamp))
        return found

    def groups(self) -> list[str]:
        listed = self._admin.list_consumer_groups(request_timeout=self._left())
        names = [one.group_id for one in listed.result(self._left()).valid]
        return sorted(name for name in names if name.startswith(_GROUPS))

    def committed(self, group: str) -> list[TopicPartition]:
        wanted = [ConsumerGroupTopicPartitions(group)]
        asked = self._admin.list_consumer_group_offsets(wanted, request_timeout=self._left())
        found = asked[group].result(self._left()).topic_partitions or []
        return [one for one in found if one.offset >= 0]


def gather_kafka(settings: KafkaSettings, ours: list[str], timeout_seconds: float = 7.0) -> KafkaFacts:
    """Ask a cluster about itself and about these topics; requests that take too long are given up."""
    address = settings.bootstrap_servers
    try:
        ask = _Ask(settings, timeout_seconds)
    except KafkaException as error:  # the settings: nobody was asked
        return KafkaFacts(address, error=error.args[0].str(), bad_settings=True)
    try:
        metadata = ask.metadata()
    except KafkaException as error:
        return KafkaFacts(address, error=error.args[0].str(), refused_login=ask.refused_login)
    embedded = str(metadata.cluster_id).startswith(CLUSTER_ID_PREFIX)
    there = [name for name in ours if name in metadata.topics]
    configs, config_error = {}, None
    if not embedded:
        try:
            configs = ask.configs(there)
        except (KafkaException, TimeoutError) as error:
            config_error = str(error)
    lags, newest_ms, now_ms = ({}, None, 0) if embedded else _offsets(ask, metadata, there)
    return KafkaFacts(
        address,
        embedded=embedded,
        brokers=len(metadata.brokers),
        topics={name: _topic_facts(metadata, name, configs.get(name, {})) for name in there},
        config_error=config_error,
        lags=lags,
        newest_ms=newest_ms,
        now_ms=now_ms,
    )


def _topic_facts(metadata: ClusterMetadata, name: str, config: Mapping[str, str]) -> TopicFacts:
    partitions = metadata.topics[name].partitions.values()
    return TopicFacts(
        partitions=len(partitions),
        replicas=min((len(one.replicas) for one in partitions), default=0),
        leaderless=sum(one.leader < 0 for one in partitions),
        config=config,
    )


def _offsets(
    ask: _Ask, metadata: ClusterMetadata, there: list[str]
) -> tuple[dict[str, int], int | None, int]:
    """Lag by group, the newest timestamp, and this host's clock then."""
    partitions = [
        TopicPartition(name, number) for name in there for number in metadata.topics[name].partitions
    ]
    try:
        newest = ask.offsets(partitions, OffsetSpec.max_timestamp())  # type: ignore[no-untyped-call]
        now_ms = time.time_ns() // 1_000_000
        committed = {group: ask.committed(group) for group in ask.groups()}
        known = {(one.topic, one.partition) for each in committed.values() for one in each}
        where = [TopicPartition(*one) for one in sorted(known)]
        ends = ask.offsets(where, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    except (KafkaException, TimeoutError) as error:
        log.warning("offsets: %s", error)
        return {}, None, 0
    lags = {
        group: sum(
            max(0, ends[one.topic, one.partition][0] - one.offset)
            for one in each
            if (one.topic, one.partition) in ends
        )
        for group, each in committed.items()
        if each
    }
    timestamps = [stamp for _, stamp in newest.values() if stamp >= 0]
    return lags, max(timestamps, default=None), now_ms
