"""Pin states ↔ rows of pin.features.v1, by columns; and the merge of such rows into a store."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from features.pin_state import AGGREGATED, CHANGED, PIN_RECORD, Records, empty_records
from features.store import RecordStore
from schemas.batch import BatchDecoder, UndecodableBatch
from schemas.codec import decode, encode
from schemas.errors import InvalidMessage
from schemas.events import PinAggregated
from schemas.states import PinFeatures
from schemas.topics import PIN_FEATURES
from schemas.vectors import CONTENT_DIMENSION

from .embedded_rows import base64_fp16
from .sources import Ints

_TIMES = ("occurred_at_ms", "ingested_at_ms")
_VECTOR = "content_embedding"
_WRITTEN = tuple(name for name in PIN_RECORD.names or () if name != "partition")
_ALWAYS = {"pin_id", CHANGED, AGGREGATED}
_OF_NO_SOURCE = _ALWAYS | set(_TIMES)

_AGGREGATED_FIELDS = set(PinAggregated.model_fields)

SOURCE_FIELDS = {
    AGGREGATED: tuple(n for n in _WRITTEN if n in _AGGREGATED_FIELDS - _OF_NO_SOURCE),
    CHANGED: tuple(n for n in _WRITTEN if n not in _AGGREGATED_FIELDS | _OF_NO_SOURCE),
}
"""Record fields that each source alone sets: states of one Pin merge source by source."""


@dataclass(frozen=True)
class StateRows:
    """Rows for a state topic, ready to be produced; row i belongs on `partitions[i]`."""

    topic: str
    keys: list[str]
    values: list[str]
    partitions: list[int]

    def __len__(self) -> int:
        return len(self.keys)


def feature_rows(records: Records, tails: Sequence[bytes]) -> StateRows:
    """One row per record, in order. What is at its default in all of them is left out."""
    columns = [_column(name, records[name]) for name in _WRITTEN if name in _ALWAYS or records[name].any()]
    texts = pl.DataFrame(columns).select(pl.struct(pl.all()).struct.json_encode()).to_series().to_list()
    return StateRows(
        PIN_FEATURES.name,
        keys=[str(pin) for pin in records["pin_id"].tolist()],
        values=[
            f'{text[:-1]},"title":{tail.decode()}}}' if tail else text
            for text, tail in zip(texts, tails, strict=True)
        ],
        partitions=records["partition"].tolist(),
    )


def _column(name: str, values: npt.NDArray[np.generic]) -> pl.Series:
    if name == _VECTOR:
        return base64_fp16(values).alias(name)
    if values.ndim == 1:
        return pl.Series(name, np.ascontiguousarray(values))
    return pl.Series(
        name, np.ascontiguousarray(values), dtype=pl.Array(pl.Int64, values.shape[1])
    ).arr.to_list()


@dataclass(frozen=True)
class ReadStates:
    """States read from rows of one batch, in their order, and the rows that are none, with why."""

    records: Records
    tails: list[bytes]
    unreadable: dict[int, InvalidMessage]


class StateRowDecoder:
    """Decodes rows of pin.features.v1 in bulk, and one by one where that fails."""

    def __init__(self) -> None:
        self._decoder = BatchDecoder(PinFeatures)

    def decode(self, values: Sequence[bytes | None], partitions: Ints) -> ReadStates:
        """Rows of a topic, `partitions` their partitions."""
        try:
            if None in values:
                raise UndecodableBatch("a row without a value")
            frame = self._decoder.decode([value for value in values if value is not None])
            return ReadStates(*_records(frame, partitions), {})
        except UndecodableBatch:
            return self._one_by_one(values, partitions)

    def _one_by_one(self, values: Sequence[bytes | None], partitions: Ints) -> ReadStates:
        kept: list[bytes] = []
        places: list[int] = []
        unreadable: dict[int, InvalidMessage] = {}
        for place, value in enumerate(values):
            try:
                kept.append(encode(decode(PinFeatures, value)))
                places.append(place)
            except InvalidMessage as error:
                unreadable[place] = error
        if not kept:
            return ReadStates(empty_records(np.empty(0, np.int64)), [], unreadable)
        frame = self._decoder.decode(kept)
        return ReadStates(*_records(frame, partitions[places]), unreadable)


def _records(frame: pl.DataFrame, partitions: Ints) -> tuple[Records, list[bytes]]:
    records = empty_records(frame["pin_id"].to_numpy())
    records["partition"] = partitions
    for name in _WRITTEN:
        series = frame[name]
        rows = np.flatnonzero(series.is_not_null().to_numpy())
        if len(rows):
            records[name][rows] = _values(name, series.drop_nulls())
    titles = frame["title"].fill_null("")
    encoded = pl.DataFrame([titles]).select(pl.struct("title").struct.json_encode()).to_series()
    # `{"title":"…"}` -> `"…"`; the state keeps the text as JSON, and nothing for none.
    tails = [text[9:-1].encode() if title else b"" for text, title in zip(encoded, titles, strict=True)]
    return records, tails


def _values(name: str, series: pl.Series) -> npt.NDArray[np.generic]:
    if name == _VECTOR and series.dtype == pl.String:
        packed = b"".join(series.str.decode("base64", strict=True).to_list())
        return np.frombuffer(packed, "<f2").reshape(-1, CONTENT_DIMENSION)
    if series.dtype == pl.List:
        return series.explode(empty_as_null=False).to_numpy().reshape(len(series), -1)
    return series.to_numpy()


@dataclass(frozen=True)
class MergedStates:
    """States to be stored: what the store had and what the rows add."""

    pin_ids: Ints
    records: Records
    tails: list[bytes]


def pins_of(store: RecordStore, partitions: Collection[int]) -> Ints:
    """Ids of the store's Pins of these partitions, ascending."""
    if not partitions:
        return np.empty(0, np.int64)
    numbers = sorted(partitions)
    found = [records["pin_id"][np.isin(records["partition"], numbers)] for records, _ in store.scan()]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def merge_states(store: RecordStore, read: ReadStates) -> MergedStates:
    """The newest of store and rows for each Pin of the rows, source by source. Writes nothing."""
    rows = read.records
    pin_ids, slots = np.unique(rows["pin_id"], return_inverse=True)
    records, found, tails = store.get_many(pin_ids)
    records[~found] = empty_records(pin_ids[~found])
    for source, fields in SOURCE_FIELDS.items():
        newest = _newest_per_slot(slots, rows[source])
        newer = rows[source][newest] > records[source]
        for name in (source, *fields):
            records[name][newer] = rows[name][newest[newer]]
        if source == CHANGED:
            for slot in np.flatnonzero(newer).tolist():
                tails[slot] = read.tails[newest[slot]]
        records["partition"] = rows["partition"][newest]
    for name in _TIMES:
        latest = records[name].copy()
        np.maximum.at(latest, slots, rows[name])
        records[name] = latest
    return MergedStates(pin_ids, records, tails)


def _newest_per_slot(slots: npt.NDArray[np.intp], offsets: Ints) -> npt.NDArray[np.intp]:
    """For each slot, ascending, the row with the highest offset (every slot has one)."""
    order = np.lexsort((offsets, slots))
    last = np.flatnonzero(np.diff(slots[order], append=slots.max(initial=-1) + 1))
    newest: npt.NDArray[np.intp] = order[last]
    return newest
