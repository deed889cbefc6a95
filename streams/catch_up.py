"""Catching up with the previous owner of a partition: its events are folded silently.

A worker that takes a partition over reads again what the previous owner had committed and not yet flushed.
These are the silent events: the previous owner has emitted their rows, so this worker folds them into its
states and emits nothing. `CatchUp` keeps fresh events back until the silent ones are folded, `fold_known`
folds them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from confluent_kafka import Consumer, Message, TopicPartition

from features.store import RecordStore

from .embedded_tiers import EVERY_PIN, EmbeddedTiers
from .enrichment import Clock, Enriched, enrich
from .positions import Offsets, Partition, Start
from .sources import SourceBatch
from .tower_output import PinEmbedder
from .wire_format import WireFormats


class CatchUp:
    """Which partitions still have silent events to read, and which are paused until those are folded.

    Partition n of every source holds the same Pins. While one source still has silent events in partition n,
    fresh events of partition n wait, whatever their source. Otherwise they would emit rows whose states lack
    what the previous owner had emitted, and the silent events emit nothing that would mend that.
    """

    def __init__(self, starts: Mapping[Partition, Start]) -> None:
        self.bounds: dict[Partition, int] = {
            each: one.silent_until for each, one in starts.items() if one.silent_until > one.offset
        }
        """Partition that still has silent events -> the events below this offset are silent."""
        self._held: dict[Partition, int] = {}
        """Paused partition -> offset to go on at."""

    def held_back(self, consumer: Consumer, messages: list[Message]) -> list[Message]:
        """These messages without the fresh ones that have to wait; pauses the partitions of those."""
        if not self.bounds:
            return messages
        behind = self._behind(messages)
        kept: list[Message] = []
        for one in messages:
            where, offset = _place(one)
            if where[1] not in behind or offset < self.bounds.get(where, 0):
                kept.append(one)
            elif where not in self._held:
                self._held[where] = offset
                consumer.pause([TopicPartition(*where)])
        return kept

    def _behind(self, messages: Sequence[Message]) -> set[int]:
        """Partition numbers that have silent events beyond these messages."""
        newest = dict(map(_place, messages))
        return {where[1] for where, bound in self.bounds.items() if newest.get(where, -1) < bound - 1}

    def advance(self, consumer: Consumer, offsets: Offsets) -> None:
        """Note that these partitions were read up to these offsets; resume those that waited for that."""
        # A held offset counts as read up to, too. It lies beyond its partition's bound, and the log may have
        # no event right below the bound: without it such a partition would wait for ever.
        for each, offset in [*offsets.items(), *self._held.items()]:
            if offset >= self.bounds.get(each, offset + 1):
                del self.bounds[each]
        behind = {number for _, number in self.bounds}
        for where in [one for one in self._held if one[1] not in behind]:
            consumer.seek(TopicPartition(*where, self._held.pop(where)))
            consumer.resume([TopicPartition(*where)])


def fold_known(
    batches: Sequence[SourceBatch],
    store: RecordStore,
    towers: Sequence[PinEmbedder],
    clock: Clock,
    formats: WireFormats | None,
    tiers: EmbeddedTiers = EVERY_PIN,
) -> Enriched:
    """Fold silent events: the states to store, and letters for the events that are in none of them.

    The towers are asked again, because the previous owner dead-lettered what they failed on. It batched
    differently, so the events of a failing Pin are tried one by one. For the same reason an event can fail
    here that the previous owner could embed, beside the event that mended it: that event has no letter yet.
    So `letters` holds every event that a tower turns down here. The caller has them acknowledged before it
    stores the states; most will be second letters. Letters that no tower caused are left out: what cannot be
    decoded was dead-lettered by the previous owner, however it batched. Nothing is written here.
    """
    enriched = enrich(batches, store, towers, clock, formats, tiers)
    return replace(enriched, letters=[one for one in enriched.letters if one.model_version is not None])


def _place(message: Message) -> tuple[Partition, int]:
    return (str(message.topic()), int(message.partition() or 0)), int(message.offset() or 0)
