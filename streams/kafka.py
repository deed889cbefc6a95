"""How we talk to Kafka: settings, librdkafka configuration, topics."""

import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from confluent_kafka import Consumer, KafkaException, Producer

# Both are public, but missing from the package's __all__.
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from schemas.errors import Refused
from schemas.topics import BROKER_TIMED, DEAD_LETTERED, DLQ_PARTITIONS, TOPICS, Topic
from schemas.transport import masked, remote_hosts

from . import topic_admin
from .embedded_broker import CLUSTER_ID_PREFIX, WARNING
from .wire_format import WireFormats

Config = dict[str, str | int | float | bool]
"""What the constructors of confluent_kafka take. Holds the password in clear: never log one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KafkaClients:
    """What a worker talks to Kafka with. A simulation puts its own clients in.

    `formats` reads messages in Confluent's wire format; without it only plain JSON is read.
    """

    consumer: Callable[[Config], Consumer] = lambda config: Consumer(config, logger=log)
    producer: Callable[[Config], Producer] = lambda config: Producer(config, logger=log)
    formats: WireFormats | None = None


class KafkaSettings(BaseModel):
    """Where Kafka is, how to get in, and the timings of consumer groups. `repr` masks the password.

    Raises Refused for an unencrypted connection to another host, unless `allow_plaintext`; for SASL without
    user and password; for a CA file that cannot be read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: str | None = None
    allow_plaintext: bool = False
    client_id: str = "skewless"
    enrichment_group: str = "skewless-enrichment"
    cutter_group: str = "skewless-cutter"
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 3_000
    replication_factor: int = 1

    @model_validator(mode="after")
    def _encrypted_or_local(self) -> Self:
        remote = remote_hosts(self.bootstrap_servers)
        if self.security_protocol in ("PLAINTEXT", "SASL_PLAINTEXT") and remote and not self.allow_plaintext:
            raise Refused(
                "kafka_plaintext",
                expected="SSL or SASL_SSL to a host that is not this one",
                came=f"{self.security_protocol} to {', '.join(map(masked, remote))}",
                fix="Set the security protocol to SASL_SSL, or allow plaintext in so many words.",
            )
        return self

    @model_validator(mode="after")
    def _whole_login(self) -> Self:
        password = self.sasl_password.get_secret_value() if self.sasl_password else ""
        if self.security_protocol.startswith("SASL") and not (self.sasl_username and password):
            raise Refused(
                "kafka_credentials",
                expected=f"user and password with {self.security_protocol}",
                came="no user" if not self.sasl_username else "no password",
                fix="Set SKEWLESS_KAFKA_SASL_USERNAME and _PASSWORD.",
            )
        if self.security_protocol.endswith("SSL") and self.ssl_ca_location is not None:
            check_ca_file(self.ssl_ca_location)
        return self


def check_ca_file(path: str) -> None:
    """Raises Refused for what is no readable file of CA certificates: each client fails on it its own way."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise Refused(
            "kafka_ca",
            expected="a file of CA certificates in PEM form",
            came=f"{path}: {error}",
            fix="Correct SKEWLESS_KAFKA_SSL_CA_LOCATION.",
        ) from error


def _connection(settings: KafkaSettings) -> Config:
    config: Config = {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": settings.client_id,
        "security.protocol": settings.security_protocol,
        # A broker that comes back is found within a second, not within librdkafka's ten.
        "reconnect.backoff.max.ms": 1_000,
    }
    if settings.security_protocol.startswith("SASL"):
        config["sasl.mechanism"] = settings.sasl_mechanism
        config["sasl.username"] = settings.sasl_username or ""
        config["sasl.password"] = settings.sasl_password.get_secret_value() if settings.sasl_password else ""
    if settings.ssl_ca_location is not None:
        config["ssl.ca.location"] = settings.ssl_ca_location
    return config


def consumer_config(
    settings: KafkaSettings, group: str, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Manual commits, from the earliest offset when the group has none.

    The assignor is `range`, not cooperative-sticky: it gives partition n of every subscribed topic to
    the same member, and a Pin's changes and aggregates have to meet in one worker.
    """
    return (
        _connection(settings)
        | {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "range",
            "session.timeout.ms": settings.session_timeout_ms,
            "heartbeat.interval.ms": settings.heartbeat_interval_ms,
            "fetch.wait.max.ms": 100,
        }
        | dict(overrides or {})
    )


def producer_config(settings: KafkaSettings, overrides: Mapping[str, Any] | None = None) -> Config:
    """Idempotent, acknowledged by all in-sync replicas, compressed.

    Keys are hashed as the Java client and Faust hash them (murmur2), so that a Pin is on the same
    partition whoever wrote it; librdkafka's own default is another hash.
    """
    return (
        _connection(settings)
        | {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 10,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
        }
        | dict(overrides or {})
    )


@dataclass(frozen=True)
class TopicsReport:
    """What `ensure_topics` did: names created, names found as they should be, or why it did nothing."""

    created: list[str] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    skipped: str | None = None


@dataclass(frozen=True)
class _Wanted:
    partitions: int
    config: dict[str, str]
    any_partitions: bool = False
    """Whether one that exists may have another number."""


def _wanted() -> dict[str, _Wanted]:
    topics = {topic.name: _Wanted(topic.partitions, _as_created(topic)) for topic in TOPICS.values()}
    letters = {"cleanup.policy": "delete", "retention.ms": "-1"}
    return topics | {topic.dlq: _Wanted(DLQ_PARTITIONS, letters, True) for topic in DEAD_LETTERED}


def _topic_config(topic: Topic) -> dict[str, str]:
    # A compacted topic keeps the newest row per key for ever; time must not delete it.
    if topic.compacted:
        return {"cleanup.policy": "compact"}
    return {"cleanup.policy": "delete", "retention.ms": str(topic.retention_ms)}


def _as_created(topic: Topic) -> dict[str, str]:
    # Stamped by producers, one whose clock is ahead would decide which hour is cut.
    stamps = {"message.timestamp.type": "LogAppendTime"} if topic in BROKER_TIMED else {}
    return _topic_config(topic) | stamps


def ensure_topics(settings: KafkaSettings) -> TopicsReport:
    """Create the topics that are missing and check the others' partitions and clean-up policy.

    Raises Refused for a topic that is not as declared: it is never altered, because the number of
    partitions decides where every Pin's state lives. Raises what `topic_admin` raises.
    """
    admin = _admin(settings)
    metadata = topic_admin.metadata(admin)
    if str(metadata.cluster_id).startswith(CLUSTER_ID_PREFIX):
        return TopicsReport(skipped=f"{WARNING}; it made its topics itself")
    wanted = _wanted()
    present = {name: len(metadata.topics[name].partitions) for name in wanted if name in metadata.topics}
    missing = {name: one for name, one in wanted.items() if name not in present}
    _verify(admin, {name: wanted[name] for name in present}, present)
    created = topic_admin.create(
        admin,
        [
            NewTopic(name, one.partitions, replication_factor=settings.replication_factor, config=one.config)
            for name, one in missing.items()
        ],
    )
    shown = topic_admin.partitions(admin, list(missing))
    others = {name: one for name, one in missing.items() if name not in created}
    _verify(admin, others, shown)
    return TopicsReport(created=created, verified=[*present, *others])


def _admin(settings: KafkaSettings) -> AdminClient:
    try:
        return AdminClient(_connection(settings))
    except KafkaException as error:
        raise Refused(
            "kafka_settings",
            expected="settings that the Kafka client takes",
            came=error.args[0].str(),
            fix="Correct the SKEWLESS_KAFKA_… settings; `skewless doctor` checks them.",
        ) from error


def _verify(admin: AdminClient, wanted: dict[str, _Wanted], partitions: dict[str, int]) -> None:
    for name, described in topic_admin.configurations(admin, list(wanted)).items():
        one, policy = wanted[name], described["cleanup.policy"].value
        fits = one.any_partitions or partitions[name] == one.partitions
        if not fits or policy != one.config["cleanup.policy"]:
            raise Refused(
                "kafka_topic",
                expected=f"{name} with {one.partitions} partitions, cleanup.policy"
                f"={one.config['cleanup.policy']}",
                came=f"{partitions[name]} partitions, cleanup.policy={policy}",
                fix="Alter or recreate the topic; changing partitions moves Pins, so rebuild the state.",
            )
