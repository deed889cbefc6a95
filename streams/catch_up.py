"""Catching up with what another owner of a partition has folded in and emitted.

Such events are folded silently. Until every source of a partition number is through with them, nothing
fresh of that number goes on: its rows would be out with a state that lacks what was emitted before, and
the silent events would then emit nothing that sets it right.
"""

from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, Message, TopicPartition

from features.store import RecordStore

from .embedded_tiers import EVERY_PIN, EmbeddedTiers
from .enrichment import Clock, enrich
from .positions import Offsets, Partition, Start
from .sources import Ints, SourceBatch
from .tower_output import PinEmbedder
from .wire_format import WireFormats


class CatchUp:
    """Which partitions are still behind, and which wait for them."""

    def __init__(self, starts: Mapping[Partition, Start]) -> None:
        self.bounds: dict[Partition, int] = {
            each: one.silent_until for each, one in starts.items() if one.silent_until > one.offset
        }
        """Partition -> events below this offset are folded silently."""
        self._held: dict[Partition, int] = {}
        """Paused partition -> where to go on."""

    def held_back(self, consumer: Consumer, messages: list[Message]) -> list[Message]:
        """Without the fresh messages of partition numbers that another source is behind in."""
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
        """Numbers that will be behind after these messages too."""
        newest = dict(map(_place, messages))
        return {where[1] for where, bound in self.bounds.items() if newest.get(where, -1) < bound - 1}

    def advance(self, consumer: Consumer, offsets: Offsets) -> None:
        """These partitions were read up to these offsets: go on with what waited for them."""
        # What is held back lies beyond the bound of its own partition; offsets may have gaps below it.
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
) -> Ints:
    """Fold silent events into the store and give the Pins they touched.

    Towers say, as they did for the owner before, what fails. Its batches were cut elsewhere: an event that
    it folded may be beside one here that it turned down, so where a Pin fails its events are tried apart.
    """
    enriched = enrich(batches, store, towers, clock, formats, tiers)
    store.put_many(enriched.pin_ids, enriched.records, enriched.tails)
    return enriched.pin_ids


def _place(message: Message) -> tuple[Partition, int]:
    return (str(message.topic()), int(message.partition() or 0)), int(message.offset() or 0)
