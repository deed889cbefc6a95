"""Messages of pin.embedded.v1 → columns, and letters for the ones that are no embedded Pins.

A clean batch is decoded with one call. In a refused one every message is read by pydantic; these rows
are our own worker's, so that is rare and need not be fast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from features.pin_state import STATUS_CODES
from index.embedding_table import EmbeddedBatch
from index.snapshots import ATTRIBUTES
from schemas.batch import BatchDecoder, UndecodableBatch
from schemas.codec import MAX_EVENT_BYTES, decode, encode
from schemas.embeddings import PinEmbedded, embedded_key
from schemas.errors import DeadLetterReason, InvalidMessage
from schemas.topics import PIN_EMBEDDED

from .sources import DeadLetter

Ints = npt.NDArray[np.int64]

_DEFAULTS = {
    name: field.default for name, field in PinEmbedded.model_fields.items() if not field.is_required()
}
_FP16_BYTES = 2


class Message(NamedTuple):
    """One message as Kafka gave it."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class DecodedRows:
    """Valid rows (`places`: where they stood among the messages, ascending), and letters for the others."""

    batch: EmbeddedBatch
    places: Ints
    letters: list[DeadLetter]


class EmbeddedDecoder:
    """Decodes batches of pin.embedded.v1."""

    def __init__(self) -> None:
        self._decoder = BatchDecoder(PinEmbedded)

    def decode(self, messages: Sequence[Message], dimensions: Mapping[str, int]) -> DecodedRows:
        """Every message becomes a row or a letter. A live version's vectors have its dimension."""
        values = [message.value or b"" for message in messages]
        places = list(range(len(messages)))
        letters: list[DeadLetter] = []
        try:
            if not values or max(map(len, values)) > MAX_EVENT_BYTES:
                raise UndecodableBatch("nothing, or a message that is too large")
            batch = self._batch(values, [message.key for message in messages], dimensions)
        except UndecodableBatch:
            places, values, letters = _read_singly(messages, dimensions)
            batch = self._batch(values, [messages[place].key for place in places], dimensions)
        return DecodedRows(batch, np.array(places, np.int64), letters)

    def _batch(
        self, values: Sequence[bytes], keys: Sequence[bytes | None], dimensions: Mapping[str, int]
    ) -> EmbeddedBatch:
        if not values:
            return EmbeddedBatch(np.zeros(0, ATTRIBUTES), [], [], [], np.zeros(0, np.uint8))
        frame = self._decoder.decode(values)
        frame = frame.with_columns(pl.col(name).fill_null(value) for name, value in _DEFAULTS.items())
        versions = frame["tower_version"].unique().sort().to_list()
        if len(versions) > np.iinfo(np.uint8).max:
            raise UndecodableBatch("more tower versions than a batch has codes for")
        codes = frame["tower_version"].replace_strict(
            versions, list(range(len(versions))), return_dtype=pl.UInt8
        )
        _check_keys(frame, keys)
        return EmbeddedBatch(
            attributes=_attributes(frame),
            vectors=_vectors(frame, dimensions),
            titles=frame["title"].to_list(),
            versions=versions,
            version_code=codes.to_numpy(),
        )


def _attributes(frame: pl.DataFrame) -> npt.NDArray[np.void]:
    attributes: npt.NDArray[np.void] = np.zeros(frame.height, ATTRIBUTES)
    for name in ATTRIBUTES.names or ():
        series = frame[name]
        if name == "status":
            series = series.replace_strict(STATUS_CODES, return_dtype=pl.UInt8)
        attributes[name] = series.to_numpy()
    return attributes


def _vectors(frame: pl.DataFrame, dimensions: Mapping[str, int]) -> list[bytes]:
    if frame.schema["vector"] != pl.String:
        raise UndecodableBatch("vectors as lists of numbers are read one by one")
    try:
        decoded = frame["vector"].str.decode("base64", strict=True)
    except pl.exceptions.PolarsError as error:
        raise UndecodableBatch(f"vector: {error}") from error
    sizes = decoded.bin.size()
    wanted = frame["tower_version"].replace_strict(
        list(dimensions),
        [_FP16_BYTES * size for size in dimensions.values()],
        default=None,
        return_dtype=pl.UInt32,
    )
    if (sizes != wanted).any() or (sizes % _FP16_BYTES != 0).any() or (sizes == 0).any():
        raise UndecodableBatch("a vector has another dimension than its tower")
    vectors: list[bytes] = decoded.to_list()
    if not np.isfinite(np.frombuffer(b"".join(vectors), "<f2")).all():
        raise UndecodableBatch("a vector holds NaN or infinity")
    return vectors


def _check_keys(frame: pl.DataFrame, keys: Sequence[bytes | None]) -> None:
    pairs = zip(frame["pin_id"].to_list(), frame["tower_version"].to_list(), strict=True)
    if [embedded_key(pin, version) for pin, version in pairs] != list(keys):
        raise UndecodableBatch("a key is not that of its row")


def _read_singly(
    messages: Sequence[Message], dimensions: Mapping[str, int]
) -> tuple[list[int], list[bytes], list[DeadLetter]]:
    places: list[int] = []
    values: list[bytes] = []
    letters: list[DeadLetter] = []
    for place, message in enumerate(messages):
        try:
            row = decode(PinEmbedded, message.value)
            _check_row(row, message.key, dimensions)
        except InvalidMessage as error:
            letters.append(_letter(place, message, error))
        else:
            places.append(place)
            values.append(encode(row))
    return places, values, letters


def _check_row(row: PinEmbedded, key: bytes | None, dimensions: Mapping[str, int]) -> None:
    wanted = embedded_key(row.pin_id, row.tower_version)
    if key != wanted:
        raise InvalidMessage(
            DeadLetterReason.KEY_MISMATCH, f"the key is {(key or b'')[:64]!r}, expected {wanted!r}"
        )
    # Four characters hold three bytes, less the padding.
    came = (len(row.vector) // 4 * 3 - row.vector.count("=")) // _FP16_BYTES
    expected = dimensions.get(row.tower_version, came)
    if came != expected:
        raise InvalidMessage(
            DeadLetterReason.SCHEMA_INVALID, f"vector has {came} dimensions, its tower has {expected}"
        )


def _letter(place: int, message: Message, error: InvalidMessage) -> DeadLetter:
    return DeadLetter(
        topic=PIN_EMBEDDED.name,
        row=place,
        partition=message.partition,
        offset=message.offset,
        ingested_at_ms=message.timestamp_ms,
        key=message.key,
        value=message.value,
        reason=error.reason,
        message=error.detail,
    )
