"""Where a state store stands in its source topics, kept in the store itself, in the same atomic write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]  # public, but not in __all__

from features.store import RecordStore
from schemas.errors import Refused

Partition = tuple[str, int]
"""(topic, partition)."""

Offsets = Mapping[Partition, int]
"""Partition -> next offset to read."""

_CLUSTER = "kafka_cluster"


def position_meta(offsets: Offsets) -> dict[str, bytes]:
    """Store metadata that says: everything before these offsets is folded in."""
    return {_name(partition): b"%d" % offset for partition, offset in offsets.items()}


def stored_position(store: RecordStore, partition: Partition) -> int | None:
    """Next offset that the store needs of this partition, or None when it has never seen any."""
    value = store.get_meta(_name(partition))
    return None if value is None else int(value)


def behind_the_group(store: RecordStore, committed: Offsets) -> frozenset[int]:
    """Numbers of the partitions in which the group has done events that this store has not seen."""
    return frozenset(
        partition[1]
        for partition, offset in committed.items()
        if offset > (stored_position(store, partition) or 0)
    )


def _name(partition: Partition) -> str:
    return f"position/{partition[0]}/{partition[1]}"


@dataclass(frozen=True)
class Start:
    """Where reading of one partition starts, and what is known about it."""

    offset: int
    silent_until: int
    """Events below it had their rows acknowledged under another owner: they are folded and not emitted."""
    known: int
    """The state holds everything before this offset."""
    missed: int
    """Events that the topic no longer holds and the state never had."""
    unwritten: bool
    """Pins of the partition may have changed since the last checkpoint by events that are not read again."""


def plan_start(committed: int, stored: int | None, checkpoint: int | None, low: int) -> Start:
    """Where to start. `committed` is below 0 when the group has none; `low` is the topic's first offset.

    The checkpoint behind the group: from the checkpoint, because the Pins changed since then are in no
    state row yet; what the group has committed is folded silently. The group behind the state (a crash
    between store and commit): from the group's, because their rows may not have been produced. A group
    that knows nothing: from the beginning, everything emitted.
    """
    known = max(stored or 0, checkpoint or 0)
    wanted = known if checkpoint is None else checkpoint
    start = 0 if committed < 0 else min(committed, wanted)
    return Start(
        offset=max(start, low),
        silent_until=max(committed, 0),
        known=known,
        missed=max(0, low - known),
        unwritten=known > 0 and (checkpoint is None or (known > checkpoint and low > checkpoint)),
    )


def check_not_ahead(partition: Partition, stored: int | None, high: int) -> None:
    """Raises Refused when the store has folded in events that the topic does not have (it ends at `high`)."""
    if stored is not None and stored > high:
        raise Refused(
            "state_ahead_of_topic",
            expected=f"{partition[0]}[{partition[1]}] to reach offset {stored}, as the state has",
            came=f"a topic that ends at {high}: it was made anew, or this is another cluster",
            fix="Delete the worker's state directory; of a source that was made anew, recreate "
            "pin.features.v1 and state.checkpointed.v1 too: they hold its old offsets.",
        )


def equal_partitions(metadata: ClusterMetadata, names: Sequence[str]) -> int:
    """How many partitions each of these topics has.

    Raises Refused when one is missing, or they differ: number n of each has to hold the same Pins.
    """
    counts = {name: len(metadata.topics[name].partitions) if name in metadata.topics else 0 for name in names}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise Refused(
            "kafka_topic",
            expected="the sources, their state and pin.embedded.v1 with equal numbers of partitions",
            came=str(counts),
            fix="`skewless topics` creates what is missing.",
        )
    return counts[names[0]]


def check_cluster(store: RecordStore, cluster_id: str) -> dict[str, bytes]:
    """Metadata to write that ties the store to this cluster.

    Raises Refused when it belongs to another one: its offsets would pass for this one's.
    """
    owner = store.get_meta(_CLUSTER)
    if owner is not None and owner != cluster_id.encode():
        raise Refused(
            "state_of_another_cluster",
            expected=f"state folded from Kafka cluster {cluster_id}",
            came=f"state folded from {owner.decode()}",
            fix="Delete the worker's state directory (an embedded broker is a new cluster each time).",
        )
    return {} if owner else {_CLUSTER: cluster_id.encode()}
