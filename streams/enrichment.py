"""The enrichment step: messages of the sources → new Pin states, embedded rows and dead letters.

Pure: it reads the store through its protocol and writes nothing; no Kafka and no clock but the one
that is passed in to time its stages.

The first tower, the serving one, decides alone what is a dead letter, and whether the step fails. What
another tower cannot embed has no row of that tower and nothing else: the Pin's state and the serving
tower's row are what they would be without it, and the cutter waits for the row that is missing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from features.pin_state import Records
from features.store import RecordStore

from .change_rows import Decoded
from .embedded_rows import EmbeddedRows, embedded_rows, joined_rows
from .embedded_tiers import EVERY_PIN, EmbeddedTiers
from .framed_batches import decode_framed
from .pin_fold import FoldedPins, fold_pins
from .pin_trials import try_apart, turned_down
from .sources import DeadLetter, Ints, SourceBatch, dead_letter
from .tower_output import PinEmbedder, TowerOutput, embed_as_placed
from .wire_format import WireFormats

Clock = Callable[[], float]
"""Monotonic seconds."""


@dataclass(frozen=True)
class LeftOut:
    """Pins that the serving tower has embedded and this one could not: they have no row of it."""

    place: int
    """In the live list."""
    version: str
    pin_ids: Ints
    partitions: frozenset[int]


def lacking(left_out: Sequence[LeftOut]) -> dict[str, frozenset[int]]:
    """Tower version -> partitions in which a Pin has no row of it."""
    by_version: dict[str, frozenset[int]] = {}
    for left in left_out:
        by_version[left.version] = by_version.get(left.version, frozenset()) | left.partitions
    return by_version


@dataclass(frozen=True)
class Enriched:
    """What one batch comes to. States hold each touched Pin once; so do rows, but for what is `left_out`."""

    pin_ids: Ints
    embedded_ids: Ints
    """Those of them that have rows: the Pins of realtime tiers."""
    records: Records
    tails: list[bytes]
    rows: list[EmbeddedRows]
    letters: list[DeadLetter]
    redelivered: dict[str, int]
    """Topic -> how many of its events the states had already."""
    left_out: list[LeftOut] = field(default_factory=list)
    """By tower, those that lack any."""
    letters_first: bool = False
    """The letters have to be acknowledged before the states are stored: a state may hold an event that came
    after one that was turned down, which would pass for redelivered if the batch were repeated."""
    stage_seconds: dict[str, float] = field(default_factory=dict)


def enrich(
    batches: Sequence[SourceBatch],
    store: RecordStore,
    towers: Sequence[PinEmbedder],
    clock: Clock,
    formats: WireFormats | None = None,
    tiers: EmbeddedTiers = EVERY_PIN,
) -> Enriched:
    """Decode, fold and embed. Every message ends up in a state or in a letter.

    A Pin of a batch tier gets no rows, so no tower can turn its messages down either.

    Raises Refused when the first tower fails on every Pin of a batch, RetryableError while the schema
    registry that `formats` needs is away, and whatever the store raises.
    """
    start = clock()
    decoded: Decoded = [(batch, decode_framed(batch, formats)) for batch in batches]
    seconds = clock() - start
    done = _fold_and_embed(decoded, store, towers, clock, tiers)
    return replace(done, stage_seconds={"decode": seconds} | done.stage_seconds)


def _fold_and_embed(
    decoded: Decoded,
    store: RecordStore,
    towers: Sequence[PinEmbedder],
    clock: Clock,
    tiers: EmbeddedTiers,
    *,
    apart: bool = True,
) -> Enriched:
    """`apart`: whether the events of a Pin that fails are tried apart."""
    times = [clock()]
    folded = fold_pins(store, decoded)
    decoded = folded.decoded
    times.append(clock())
    embeddable = _embeddable(folded, tiers)
    outputs = [embed_as_placed(place, tower, embeddable.records) for place, tower in enumerate(towers)]
    times.append(clock())
    letters = [letter for _, one in decoded for letter in one.letters]
    failed = np.zeros(len(folded.pin_ids), np.bool_)
    several, whole = folded.pin_ids[:0], folded
    if outputs and outputs[0].failed.any():
        failed, not_finite = (
            embeddable.spread(flags, len(failed)) for flags in (outputs[0].failed, outputs[0].not_finite)
        )
        several = folded.pin_ids[failed & _have_several(folded)] if apart else several
        at_once = failed & ~np.isin(folded.pin_ids, several)
        letters += _model_letters(decoded, folded, at_once, not_finite, towers[0].version)
    keep = ~failed
    kept = embeddable.of(keep)
    if failed.any():
        folded, embeddable = _without(folded, failed), embeddable.only(kept)
        outputs = [one.only(kept) for one in outputs]
    rows = [_rows_of(tower, one, embeddable) for tower, one in zip(towers, outputs, strict=True)]
    times.append(clock())
    done = Enriched(
        pin_ids=folded.pin_ids,
        embedded_ids=embeddable.pin_ids,
        records=folded.records,
        tails=folded.tails,
        rows=rows,
        letters=letters,
        redelivered=_redelivered(whole, keep),
        left_out=_left_out(towers, outputs, embeddable),
        stage_seconds=dict(zip(("state", "tower", "encode"), np.diff(times).tolist(), strict=True)),
    )
    if not len(several):
        return done
    tried = try_apart(store, decoded, several, towers[0])
    rest = _fold_and_embed(tried.good, store, towers, clock, tiers, apart=False)
    return _joined(done, replace(rest, letters=tried.letters + rest.letters))


def _have_several(folded: FoldedPins) -> npt.NDArray[np.bool_]:
    """Which Pins have more than one event in this batch."""
    counts = np.bincount(np.concatenate(folded.slots), minlength=len(folded.pin_ids))
    return counts > 1


def _redelivered(folded: FoldedPins, keep: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Of the Pins that are kept; by topic."""
    return {
        batch.source.topic: int((repeated & keep[slots]).sum())
        for (batch, _), repeated, slots in zip(folded.decoded, folded.repeated, folded.slots, strict=True)
    }


def _joined(one: Enriched, other: Enriched) -> Enriched:
    """Two parts of one batch, without a Pin in common."""
    return Enriched(
        pin_ids=np.concatenate([one.pin_ids, other.pin_ids]),
        embedded_ids=np.concatenate([one.embedded_ids, other.embedded_ids]),
        records=np.concatenate([one.records, other.records]),
        tails=one.tails + other.tails,
        rows=[joined_rows(*both) for both in zip(one.rows, other.rows, strict=True)],
        letters=one.letters + other.letters,
        redelivered={
            topic: count + other.redelivered.get(topic, 0) for topic, count in one.redelivered.items()
        },
        left_out=one.left_out + other.left_out,
        letters_first=True,
        stage_seconds={
            name: seconds + other.stage_seconds[name] for name, seconds in one.stage_seconds.items()
        },
    )


@dataclass(frozen=True)
class _Embeddable:
    """The states of a batch that are embedded: `places` among all of them, or None for all."""

    places: npt.NDArray[np.intp] | None
    pin_ids: Ints
    records: Records
    tails: list[bytes]

    def of(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Flags of these among the flags of all."""
        return flags if self.places is None else flags[self.places]

    def spread(self, flags: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
        """The inverse: flags of all, unset for the others."""
        if self.places is None:
            return flags
        spread = np.zeros(count, np.bool_)
        spread[self.places] = flags
        return spread

    def only(self, kept: npt.NDArray[np.bool_]) -> "_Embeddable":
        """Those that are flagged; their places are asked for no more."""
        tails = [tail for tail, is_kept in zip(self.tails, kept.tolist(), strict=True) if is_kept]
        return _Embeddable(None, self.pin_ids[kept], self.records[kept], tails)


def _rows_of(tower: PinEmbedder, output: TowerOutput, embeddable: _Embeddable) -> EmbeddedRows:
    """Rows of the Pins that this tower could embed."""
    if output.failed.any():
        good = ~output.failed
        embeddable, output = embeddable.only(good), output.only(good)
    return embedded_rows(
        tower.version, embeddable.records, embeddable.tails, output.vectors, output.input_mask
    )


def _left_out(
    towers: Sequence[PinEmbedder], outputs: Sequence[TowerOutput], embeddable: _Embeddable
) -> list[LeftOut]:
    left: list[LeftOut] = []
    for place, (tower, one) in enumerate(zip(towers, outputs, strict=True)):
        if one.failed.any():
            partitions = frozenset(embeddable.records["partition"][one.failed].tolist())
            left.append(LeftOut(place, tower.version, embeddable.pin_ids[one.failed], partitions))
    return left


def _embeddable(folded: FoldedPins, tiers: EmbeddedTiers) -> _Embeddable:
    places = tiers.chosen(folded.pin_ids)
    if places is None:
        return _Embeddable(None, folded.pin_ids, folded.records, folded.tails)
    tails = [folded.tails[place] for place in places.tolist()]
    return _Embeddable(places, folded.pin_ids[places], folded.records[places], tails)


def _model_letters(
    decoded: Decoded,
    folded: FoldedPins,
    failed: npt.NDArray[np.bool_],
    not_finite: npt.NDArray[np.bool_],
    version: str,
) -> list[DeadLetter]:
    """A letter for every row of this batch that went into a Pin that this tower cannot embed."""
    letters: list[DeadLetter] = []
    for (batch, one), slots in zip(decoded, folded.slots, strict=True):
        for place in np.flatnonzero(failed[slots]).tolist():
            reason, said, tower = turned_down(
                bool(not_finite[slots[place]]), version, "with this batch's changes"
            )
            letter = dead_letter(batch, int(one.rows[place]), reason, f"{said}; its state is unchanged")
            letters.append(replace(letter, model_version=tower))
    return letters


def _without(folded: FoldedPins, failed: npt.NDArray[np.bool_]) -> FoldedPins:
    """The states without the failed Pins: what those were before this batch stays in the store."""
    keep = ~failed
    return replace(
        folded,
        pin_ids=folded.pin_ids[keep],
        records=folded.records[keep],
        tails=[tail for tail, kept in zip(folded.tails, keep.tolist(), strict=True) if kept],
    )
