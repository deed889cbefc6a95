"""The enrichment step: messages of the sources → new Pin states, embedded rows and dead letters.

Pure: it reads the store through its protocol and writes nothing; no Kafka and no clock but the one
that is passed in to time its stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.pin_state import Records
from features.store import RecordStore
from schemas.errors import DeadLetterReason, Refused

from .decoding import DecodedBatch
from .embedded_rows import EmbeddedRows, embedded_rows
from .embedded_tiers import EVERY_PIN, EmbeddedTiers
from .framed_batches import decode_framed
from .pin_fold import FoldedPins, fold_pins
from .sources import DeadLetter, Ints, SourceBatch, dead_letter
from .wire_format import WireFormats

Clock = Callable[[], float]
"""Monotonic seconds."""

BROKEN_TOWER_PINS = 16
"""A tower that fails on this many Pins out of as many is broken; the Pins are not."""


class Embedded(Protocol):
    """What a tower gives: vectors (N, D) and, per row, which inputs were not their default (N,)."""

    @property
    def vectors(self) -> npt.NDArray[np.float32]: ...  # noqa: D102

    @property
    def input_mask(self) -> Ints: ...  # noqa: D102


class PinEmbedder(Protocol):
    """A Pin tower of one version. `embed` raises ValueError or ArithmeticError for rows it cannot embed."""

    @property
    def version(self) -> str: ...  # noqa: D102

    def embed(self, pins: Records, /) -> Embedded: ...  # noqa: D102


@dataclass(frozen=True)
class Enriched:
    """What one batch comes to. States and rows hold each touched Pin once (rows: once per tower)."""

    pin_ids: Ints
    embedded_ids: Ints
    """Those of them that have rows: the Pins of realtime tiers."""
    records: Records
    tails: list[bytes]
    rows: list[EmbeddedRows]
    letters: list[DeadLetter]
    redelivered: dict[str, int]
    """Topic -> how many of its events the states had already."""
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

    Raises Refused when a tower fails on every Pin of a batch, RetryableError while the schema registry
    that `formats` needs is away, and whatever the store raises.
    """
    times = [clock()]
    decoded = [(batch, decode_framed(batch, formats)) for batch in batches]
    times.append(clock())
    folded = fold_pins(store, decoded)
    times.append(clock())
    embeddable = _embeddable(folded, tiers)
    vectors = [embed_rows(tower, embeddable.records) for tower in towers]
    times.append(clock())
    letters = [letter for _, one in decoded for letter in one.letters]
    failed = np.zeros(len(folded.pin_ids), np.bool_)
    for tower, one in zip(towers, vectors, strict=True):
        if one.failed.any():
            # Two towers may fail on one Pin; its messages are turned down once, by the first.
            mine, not_finite = (
                embeddable.spread(flags, len(failed)) for flags in (one.failed, one.not_finite)
            )
            letters += _model_letters(decoded, folded, mine & ~failed, not_finite, tower.version)
            failed |= mine
    keep = ~failed
    kept = embeddable.of(keep)
    if failed.any():
        folded, embeddable = _without(folded, failed), embeddable.only(kept)
    rows = [
        embedded_rows(
            tower.version, embeddable.records, embeddable.tails, one.vectors[kept], one.input_mask[kept]
        )
        for tower, one in zip(towers, vectors, strict=True)
    ]
    times.append(clock())
    stages = dict(zip(("decode", "state", "tower", "encode"), np.diff(times).tolist(), strict=True))
    redelivered = {
        batch.source.topic: int((repeated & keep[slots]).sum())
        for batch, repeated, slots in zip(batches, folded.repeated, folded.slots, strict=True)
    }
    pins, records, tails = folded.pin_ids, folded.records, folded.tails
    return Enriched(pins, embeddable.pin_ids, records, tails, rows, letters, redelivered, stages)


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


def _embeddable(folded: FoldedPins, tiers: EmbeddedTiers) -> _Embeddable:
    places = tiers.chosen(folded.pin_ids)
    if places is None:
        return _Embeddable(None, folded.pin_ids, folded.records, folded.tails)
    tails = [folded.tails[place] for place in places.tolist()]
    return _Embeddable(places, folded.pin_ids[places], folded.records[places], tails)


@dataclass(frozen=True)
class TowerOutput:
    """Vectors (N, D) and masks (N,) of one tower; rows where `failed` is set hold zeros."""

    vectors: npt.NDArray[np.float32]
    input_mask: Ints
    failed: npt.NDArray[np.bool_]
    not_finite: npt.NDArray[np.bool_]
    """Of the failed ones, those whose vector was NaN or infinite."""


def embed_rows(tower: PinEmbedder, records: Records) -> TowerOutput:
    """Embed records, setting aside the ones that the tower cannot embed.

    Raises Refused when it can embed none of `BROKEN_TOWER_PINS` or more.
    """
    output = _embed_or_halve(tower, records)
    if len(records) >= BROKEN_TOWER_PINS and output.failed.all():
        raise Refused(
            "tower_broken",
            expected=f"tower {tower.version[:12]} to embed Pins",
            came=f"a failure on each of {len(records)} Pins",
            fix="Take this version off the live towers, or repair its checkpoint.",
        )
    return output


def _embed_or_halve(tower: PinEmbedder, records: Records) -> TowerOutput:
    try:
        output = tower.embed(records)
        if not np.isfinite(output.vectors).all():
            raise FloatingPointError("the tower gave a vector that is not finite")
    except (ValueError, ArithmeticError) as error:
        if len(records) <= 1:
            return TowerOutput(
                np.zeros((len(records), 0), np.float32),
                np.zeros(1, np.int64),
                np.ones(1, np.bool_),
                np.array([isinstance(error, FloatingPointError)]),
            )
        middle = len(records) // 2
        return _joined(_embed_or_halve(tower, records[:middle]), _embed_or_halve(tower, records[middle:]))
    fine = np.zeros(len(records), np.bool_)
    return TowerOutput(output.vectors, output.input_mask, fine, fine)


def _joined(left: TowerOutput, right: TowerOutput) -> TowerOutput:
    """Both halves; a half in which all rows failed does not know the dimension and takes the other's."""
    dimension = max(left.vectors.shape[1], right.vectors.shape[1])
    vectors = [
        half.vectors
        if half.vectors.shape[1] == dimension
        else np.zeros((len(half.vectors), dimension), np.float32)
        for half in (left, right)
    ]
    return TowerOutput(
        np.concatenate(vectors),
        np.concatenate([left.input_mask, right.input_mask]),
        np.concatenate([left.failed, right.failed]),
        np.concatenate([left.not_finite, right.not_finite]),
    )


def _model_letters(
    decoded: Sequence[tuple[SourceBatch, DecodedBatch]],
    folded: FoldedPins,
    failed: npt.NDArray[np.bool_],
    not_finite: npt.NDArray[np.bool_],
    version: str,
) -> list[DeadLetter]:
    """A letter for every row of this batch that went into a Pin that this tower cannot embed."""
    story = {
        False: (DeadLetterReason.MODEL_ERROR, "the tower cannot embed the Pin"),
        True: (DeadLetterReason.NAN_EMBEDDING, "the tower's vector of the Pin is not finite"),
    }
    letters: list[DeadLetter] = []
    for (batch, one), slots in zip(decoded, folded.slots, strict=True):
        for row, slot in zip(one.rows.tolist(), slots.tolist(), strict=True):
            if failed[slot]:
                reason, said = story[bool(not_finite[slot])]
                message = f"{said} with this batch's changes; its state is unchanged"
                letters.append(replace(dead_letter(batch, row, reason, message), model_version=version))
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
