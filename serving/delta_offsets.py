"""Arithmetic of offsets: topic -> partition -> next offset to read."""

from schemas.manifests import Offsets
from schemas.topics import PIN_EMBEDDED, PIN_FEATURES

Spans = dict[str, dict[int, tuple[int, int]]]
"""Topic -> partition -> first offset that is still there, and the one after the last."""


def topics_of(wanted: Offsets) -> tuple[str, ...]:
    """The topics that a release's delta segment comes from.

    Every change of a realtime tier is a row of pin.embedded.v1. Only a tier that was embedded all at once
    needs the states of pin.features.v1 too, and such a tier says from where.
    """
    return (PIN_EMBEDDED.name, PIN_FEATURES.name) if wanted.get(PIN_FEATURES.name) else (PIN_EMBEDDED.name,)


def earliest(one: Offsets, other: Offsets) -> Offsets:
    """The lower offset of each partition that either has."""
    merged = {topic: dict(offsets) for topic, offsets in one.items()}
    for topic, offsets in other.items():
        mine = merged.setdefault(topic, {})
        for partition, offset in offsets.items():
            mine[partition] = min(offset, mine.get(partition, offset))
    return merged


def covers(start: Offsets, wanted: Offsets) -> bool:
    """Whether reading from `start` has given everything from `wanted` on."""
    return all(
        partition in start.get(topic, {}) and start[topic][partition] <= offset
        for topic, offsets in wanted.items()
        for partition, offset in offsets.items()
    )


def completed(wanted: Offsets, spans: Spans) -> Offsets:
    """`wanted` for every partition in `spans`; one that it does not name is wanted from its beginning.

    `spans` has the topics that are wanted and no others: a topic that is not named is wanted as a whole.
    """
    return {
        topic: {
            partition: min(wanted.get(topic, {}).get(partition, first), end)
            for partition, (first, end) in partitions.items()
        }
        for topic, partitions in spans.items()
    }


def missing(wanted: Offsets, spans: Spans) -> int:
    """Offsets that are wanted and that the topics do not hold any more: deleted by retention."""
    return sum(
        max(spans[topic][partition][0] - offset, 0)
        for topic, offsets in wanted.items()
        for partition, offset in offsets.items()
        if partition in spans.get(topic, {})
    )


def behind(positions: Offsets, spans: Spans) -> int:
    """Offsets between `positions` and the ends."""
    return sum(
        max(end - max(positions.get(topic, {}).get(partition, first), first), 0)
        for topic, partitions in spans.items()
        for partition, (first, end) in partitions.items()
    )
