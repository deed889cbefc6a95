"""Messages → columns, one message after the other: how a batch is read in which some are bad.

`BatchDecoder.parse` refuses a whole batch for one message that it cannot read. This names the messages
instead, for somewhat more time per batch; the columns of the others are the same.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

from .batch import arrow_schema, vector_fields
from .codec import MAX_EVENT_BYTES

_KINDS: dict[Any, frozenset[type]] = {
    pl.Int64(): frozenset({int}),
    pl.Float64(): frozenset({int, float}),
    pl.Boolean(): frozenset({bool}),
    pl.String(): frozenset({str}),
}


class RowReader:
    """Reads batches of one event type by the types of its pydantic declaration; rules are not checked.

    NOTE: of a key that stands twice in one object this keeps the last value, as pydantic does and
    `BatchDecoder` does not.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self._schema = dict(pl.Schema(arrow_schema(model)))
        self._required = {name for name, field in model.model_fields.items() if field.is_required()}
        self._vectors = frozenset(vector_fields(model))
        self._kinds = {name: self._allowed(name) for name in self._schema}

    def _allowed(self, name: str) -> frozenset[type]:
        """Python types that the field's plain JSON forms are read as."""
        dtype = self._schema[name]
        kinds: set[type] = set() if name in self._required else {type(None)}
        if isinstance(dtype, pl.List):
            return frozenset(kinds | {list})
        return frozenset(kinds | _KINDS[dtype] | ({list} if name in self._vectors else set()))

    def read(self, values: Sequence[bytes | None]) -> tuple[pl.DataFrame, set[int]]:
        """One row per message, in order, and the rows in which something has not its field's JSON type.

        What those rows hold means nothing: no message, no object, a required field missing, a number
        where a text belongs. Vectors are lists of numbers when all are, else base64 text.
        """
        objects = [_object(value) for value in values]
        present = set().union(*objects) | self._required
        series: list[pl.Series] = []
        odd: set[int] = set()
        for name, dtype in self._schema.items():
            if name not in present:
                series.append(_nothing(dtype, len(values)).alias(name))
                continue
            column, its_odd = self._column(name, [one.get(name) for one in objects])
            series.append(column.alias(name))
            odd |= its_odd
        return pl.DataFrame(series), odd

    def _column(self, name: str, values: list[Any]) -> tuple[pl.Series, set[int]]:
        dtype = self._schema[name]
        values, odd = _without_other_kinds(values, self._kinds[name])
        if isinstance(dtype, pl.List):
            column, bad = _lists(values, dtype.inner)
        elif name in self._vectors:
            column, bad = _vectors(values)
        else:
            column, bad = _scalars(values, dtype)
        return column, odd | bad


def _nothing(dtype: Any, height: int) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, height)


def _object(value: bytes | None) -> dict[str, Any]:
    """The message's fields; none when it is no JSON object that may be read."""
    if value is None or len(value) > MAX_EVENT_BYTES:
        return {}
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {}
    return found if type(found) is dict else {}


def _without_other_kinds(values: list[Any], kinds: frozenset[type]) -> tuple[list[Any], set[int]]:
    """`values` with None for what is of no such kind, and the places of that."""
    if kinds.issuperset(map(type, values)):
        return values, set()
    odd = {place for place, one in enumerate(values) if type(one) not in kinds}
    return _without(values, odd), odd


def _without(values: list[Any], odd: set[int]) -> list[Any]:
    return [None if place in odd else one for place, one in enumerate(values)]


def _scalars(values: list[Any], dtype: Any) -> tuple[pl.Series, set[int]]:
    try:
        return pl.Series(values, dtype=dtype), set()
    except (TypeError, OverflowError):
        # Of the right kind, so it is a whole number that 64 bits with a sign do not hold.
        odd = {place for place, one in enumerate(values) if one is not None and not _fits(one)}
        return pl.Series(_without(values, odd), dtype=dtype), odd


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def _vectors(values: list[Any]) -> tuple[pl.Series, set[int]]:
    kinds = set(map(type, values))
    if list not in kinds:
        return pl.Series(values, dtype=pl.String), set()
    lists, odd = _lists([one if type(one) is list else None for one in values], pl.Float64())
    if str not in kinds:
        return lists, odd
    texts = pl.Series([one if type(one) is str else None for one in values], dtype=pl.String)
    return texts.zip_with(texts.is_not_null(), fp16_texts(lists)), odd


def _lists(values: list[Any], inner: Any) -> tuple[pl.Series, set[int]]:
    """A list column, and the places of the lists that hold something else than `inner`."""
    flat = _elements(list(chain.from_iterable(one for one in values if one is not None)), inner)
    if flat is not None:
        return _from_flat(flat, values), set()
    odd = {place for place, one in enumerate(values) if one is not None and _elements(one, inner) is None}
    column, _ = _lists(_without(values, odd), inner)
    return column, odd


def _elements(elements: list[Any], dtype: Any) -> pl.Series | None:
    """A column of elements, or None when one of them is null or of another kind."""
    try:
        column = pl.Series(elements, dtype=dtype)
    except (TypeError, OverflowError):
        return None
    if column.null_count():
        return None
    if not dtype.is_numeric():
        return column
    # polars takes true for 1 and false for 0, so those are looked at.
    numbers = column.to_numpy()
    doubtful = np.flatnonzero((numbers == 0) | (numbers == 1)).tolist()
    return None if any(type(elements[place]) is bool for place in doubtful) else column


def _from_flat(flat: pl.Series, values: list[Any]) -> pl.Series:
    """A list column from its elements: polars takes ten times as long to make one from nested lists."""
    sizes = [0 if one is None else len(one) for one in values]
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), pa.int64())
    missing = pa.array([one is None for one in values], pa.bool_())
    column: Any = pl.from_arrow(pa.LargeListArray.from_arrays(offsets, flat.to_arrow(), mask=missing))
    return pl.Series(column)


def fp16_texts(lists: pl.Series) -> pl.Series:
    """A column of lists of numbers as base64 of little-endian fp16; beyond its range they become infinite."""
    sizes = lists.list.len().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(2 * sizes.astype(np.int64))])
    with np.errstate(over="ignore"):
        packed = lists.drop_nulls().explode(empty_as_null=False).to_numpy().astype("<f2")
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(packed.tobytes())]
    cells: Any = pl.from_arrow(pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(lists), buffers))
    texts = pl.Series(cells).bin.encode("base64")
    return texts.zip_with(
        lists.is_not_null(), pl.Series([None], dtype=pl.String).new_from_index(0, len(lists))
    )
