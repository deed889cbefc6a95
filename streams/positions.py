"""Where a state store stands in its source topics, kept in the store itself, in the same atomic write."""

from collections.abc import Mapping

from confluent_kafka import OFFSET_BEGINNING

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


def _name(partition: Partition) -> str:
    return f"position/{partition[0]}/{partition[1]}"


def start_offset(committed: int, stored: int | None) -> int:
    """Where to start reading: `committed` is below 0 when the group has none.

    The store behind the group (another worker moved on): from the store's position, because its state
    lacks the events between. The group behind the store (a crash between store and commit): from the
    group's, because their rows may not have been produced.
    """
    if stored is None or committed < 0:
        return int(OFFSET_BEGINNING)
    return min(committed, stored)


def missed_events(low: int, stored: int | None) -> int:
    """Events that the topic no longer holds (it starts at `low`) and the state never had."""
    return max(0, low - (stored or 0))


def check_not_ahead(partition: Partition, stored: int | None, high: int) -> None:
    """Raises Refused when the store has folded in events that the topic does not have (it ends at `high`)."""
    if stored is not None and stored > high:
        raise Refused(
            "state_ahead_of_topic",
            expected=f"{partition[0]}[{partition[1]}] to reach offset {stored}, as the state has",
            came=f"a topic that ends at {high}: it was made anew, or this is another cluster",
            fix="Delete the worker's state directory and let it rebuild the state from the topic.",
        )


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
