"""The doctor's findings about Kafka. Pure: facts in, findings out."""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.topics import BROKER_TIMED, DEAD_LETTERED, TOPICS, WINDOW_SOURCE_RETENTION_MS, Topic
from streams.topic_report import KafkaFacts, TopicFacts

from .doctor import Finding
from .durations import spoken

ALLOWED_SKEW_MS = 5_000
MUCH_LAG = 100_000
"""Messages. More than a worker makes up for in a few seconds."""

_ALTER = (
    "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {} --add-config {}"
)


@dataclass(frozen=True)
class Needs:
    """What retention has to last for: twice the time between snapshots, and a restore."""

    snapshot_interval_ms: int = 3_600_000
    restore_ms: int = 3_600_000

    def retention_ms(self, topic: Topic) -> int:
        """How long messages of a topic have to be kept; windows are counted from their whole span."""
        if topic.retention_ms >= WINDOW_SOURCE_RETENTION_MS:
            return WINDOW_SOURCE_RETENTION_MS
        return 2 * self.snapshot_interval_ms + self.restore_ms


def our_topics() -> list[str]:
    """Every topic that a process of ours needs."""
    return [*TOPICS, *(topic.dlq for topic in DEAD_LETTERED)]


def check_kafka(facts: KafkaFacts, needs: Needs) -> Iterable[Finding]:
    """Reach, login, topics, lag and clock."""
    if facts.error is not None:
        yield from _out_of_reach(facts, facts.error)
        return
    if facts.embedded:
        yield Finding("broker", "OK", f"{facts.address}, embedded: memory only, for demo and tests")
    else:
        yield Finding("broker", "OK", f"{facts.address}, {facts.brokers} brokers")
    yield from _existence(facts)
    if facts.embedded:
        for name in ("topic settings", "group lag", "clock"):
            yield Finding(name, "SKIP", "the embedded broker cannot be asked")
        return
    if facts.config_error:
        fix = "Give this user DescribeConfigs on the topics."
        yield Finding("topic settings", "WARN", f"not to be had: {facts.config_error}", fix)
    yield from _settings(facts, needs)
    yield from _lag(facts)
    yield _clock(facts)


def _out_of_reach(facts: KafkaFacts, error: str) -> Iterable[Finding]:
    if facts.refused_login or facts.bad_settings:
        fix = (
            "Check SKEWLESS_KAFKA_SECURITY_PROTOCOL, _SASL_MECHANISM, _USERNAME, _PASSWORD, _SSL_CA_LOCATION."
        )
        found = f"the settings: {error}" if facts.bad_settings else f"{facts.address} refuses us"
        yield Finding("login", "FAIL", found, fix)
    else:
        fix = "Start it, or set SKEWLESS_KAFKA_BOOTSTRAP_SERVERS; embedded: skewless broker"
        yield Finding("broker", "FAIL", f"{facts.address} is out of reach: {error}", fix)
    yield Finding("topics", "SKIP", "no broker to ask")


def _existence(facts: KafkaFacts) -> Iterable[Finding]:
    missing = [name for name in our_topics() if name not in facts.topics]
    if missing:
        yield Finding("topics", "FAIL", f"missing: {', '.join(missing)}", "skewless topics")
    else:
        yield Finding("topics", "OK", f"all {len(facts.topics)} are there")
    for name, one in facts.topics.items():
        if one.leaderless:
            found = f"{name}: {one.leaderless} partitions without a leader"
            yield Finding("partitions", "FAIL", found, "Bring the brokers that hold them back.")
    for topic in TOPICS.values():
        one = facts.topics.get(topic.name, TopicFacts(topic.partitions, 1))
        if one.partitions != topic.partitions:
            found = f"{topic.name} has {one.partitions}, not {topic.partitions}"
            yield Finding("partitions", "FAIL", found, _repartition(facts, topic))


def _repartition(facts: KafkaFacts, topic: Topic) -> str:
    """Kafka moves no message to the partition where it belongs among another number of them."""
    if topic.compacted:
        return (
            "Do not delete it: the other topics do not go back far enough to rebuild it. Copy its rows, by "
            "their keys' murmur2, to a cluster where `skewless topics` made the topics."
        )
    delete = f"kafka-topics.sh --bootstrap-server {facts.address} --delete --topic {topic.name}"
    return f"This loses what is on it: {delete}; skewless topics; then publish all of it again"


def _settings(facts: KafkaFacts, needs: Needs) -> Iterable[Finding]:
    worst: list[Finding] = []
    for topic in TOPICS.values():
        if topic.name in facts.topics:
            worst += _topic_settings(facts, topic, needs)
    for topic in DEAD_LETTERED:
        config = facts.topics[topic.dlq].config if topic.dlq in facts.topics else {}
        if "compact" in config.get("cleanup.policy", ""):
            fix = _ALTER.format(facts.address, topic.dlq, "cleanup.policy=delete")
            worst.append(Finding("cleanup", "FAIL", f"{topic.dlq} is compacted: letters vanish", fix))
    worst += _broker_time(facts)
    yield from worst or [Finding("topic settings", "OK", "clean-up and retention are as they have to be")]
    yield from _replication(facts)


def _broker_time(facts: KafkaFacts) -> Iterable[Finding]:
    """A wrong clock can only be told where the broker, and not whoever produces, says when a message came."""
    setting, wanted = "message.timestamp.type", "LogAppendTime"
    there = [topic.name for topic in BROKER_TIMED if topic.name in facts.topics]
    wrong = [name for name in there if facts.topics[name].config.get(setting, wanted) != wanted]
    if wrong:
        found = f"{', '.join(wrong)}: stamped by producers; one whose clock is ahead is not noticed"
        command = _ALTER.format(facts.address, "$topic", f"{setting}={wanted}")
        fix = f"for topic in {' '.join(wrong)}; do {command}; done"
        yield Finding("broker time", "WARN", found, fix)


def _topic_settings(facts: KafkaFacts, topic: Topic, needs: Needs) -> Iterable[Finding]:
    said = facts.topics[topic.name].config
    policy, retention = said.get("cleanup.policy"), said.get("retention.ms")
    wanted = "compact" if topic.compacted else "delete"
    if policy is not None and policy != wanted:
        fix = _ALTER.format(facts.address, topic.name, f"cleanup.policy={wanted}")
        yield Finding("cleanup", "FAIL", f"{topic.name}: {policy}, not {wanted}", fix)
    if topic.compacted or retention is None:
        return
    least = needs.retention_ms(topic)
    if 0 <= int(retention) < least:
        found = f"{topic.name} keeps {spoken(int(retention))}, {spoken(least)} are needed"
        fix = _ALTER.format(facts.address, topic.name, f"retention.ms={topic.retention_ms}")
        yield Finding("retention", "FAIL", found, fix)
    if int(said.get("retention.bytes", "-1")) >= 0:
        found = f"{topic.name} drops messages over {int(said['retention.bytes']):,} bytes, however young"
        fix = _ALTER.format(facts.address, topic.name, "retention.bytes=-1")
        yield Finding("retention", "WARN", found, fix)


def _replication(facts: KafkaFacts) -> Iterable[Finding]:
    single = [name for name, one in facts.topics.items() if one.replicas == 1]
    if single:
        found = f"{len(single)} topics have one copy ({single[0]}, …): a lost disk loses them"
        fix = "SKEWLESS_KAFKA_REPLICATION_FACTOR=3 skewless topics, on a cluster of three; then reassign"
        yield Finding("replication", "WARN", found, fix)
    else:
        yield Finding(
            "replication", "OK", f"at least {min((o.replicas for o in facts.topics.values()), default=0)}"
        )
    for name, one in facts.topics.items():
        needed = int(one.config.get("min.insync.replicas", "1"))
        fix = _ALTER.format(facts.address, name, f"min.insync.replicas={max(1, one.replicas - 1)}")
        if needed > one.replicas:
            found = f"{name}: {needed} in-sync copies wanted of {one.replicas}: nothing can be written"
            yield Finding("min.insync.replicas", "FAIL", found, fix)
        elif needed == one.replicas > 1:
            found = f"{name}: {needed} of {one.replicas}: one broker away stops writing"
            yield Finding("min.insync.replicas", "WARN", found, fix)
        elif one.replicas > 2 and needed < 2:
            found = f"{name}: 1 of {one.replicas}: an acknowledged row may be on one disk only"
            yield Finding("min.insync.replicas", "WARN", found, fix)


def _lag(facts: KafkaFacts) -> Iterable[Finding]:
    if not facts.lags:
        yield Finding("group lag", "SKIP", "no group of ours has committed anything yet")
    for group, lag in facts.lags.items():
        if lag > MUCH_LAG:
            found = f"{group} is {lag:,} messages behind"
            yield Finding("group lag", "WARN", found, "Start more workers: skewless enrich --worker N")
        else:
            yield Finding("group lag", "OK", f"{group}: {lag:,}")


def _clock(facts: KafkaFacts) -> Finding:
    if facts.newest_ms is None:
        return Finding("clock", "SKIP", "no message to compare with")
    ahead = facts.newest_ms - facts.now_ms
    if ahead > ALLOWED_SKEW_MS:
        found = f"the newest message is {spoken(ahead)} in this host's future"
        return Finding("clock", "WARN", found, "Run chrony or ntpd here and on the hosts that produce.")
    return Finding("clock", "OK", f"nothing from the future; the newest message is {spoken(-ahead)} old")
