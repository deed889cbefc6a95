"""Embedded Pins → the keys and values of pin.embedded.v1, built by columns.

A value is the JSON text that `schemas.codec.decode(PinEmbedded, …)` reads; no pydantic model is made
for it, because that alone would cost as much as the rest of the worker.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from features.pin_state import STATUS_NAMES, Records
from schemas.embeddings import embedded_key
from schemas.topics import PIN_EMBEDDED

from .sources import Ints

_NUMBERS = (
    "pin_id",
    "changed_offset",
    "aggregated_offset",
    "occurred_at_ms",
    "ingested_at_ms",
    "advertiser_id",
    "price_micros",
    "bid_micros",
    "daily_budget_micros",
    "target_ages",
    "starts_at_ms",
    "ends_at_ms",
)
_STATUS_TEXTS = np.array([f'"{STATUS_NAMES.get(code, "active")}"' for code in range(max(STATUS_NAMES) + 1)])
"""By status code; a Pin whose status nobody has told is active, as `PinEmbedded` has it."""

_FP16_BYTES = 2


@dataclass(frozen=True)
class EmbeddedRows:
    """Rows of one tower version, ready to be produced; row i belongs on `partitions[i]`."""

    tower_version: str
    keys: list[str]
    values: list[str]
    partitions: list[int]
    topic: str = PIN_EMBEDDED.name
    size_bytes: int = 0
    """Of all keys and values."""

    def __len__(self) -> int:
        return len(self.keys)


def joined_rows(one: EmbeddedRows, other: EmbeddedRows) -> EmbeddedRows:
    """The rows of both."""
    return EmbeddedRows(
        one.tower_version,
        one.keys + other.keys,
        one.values + other.values,
        one.partitions + other.partitions,
        one.topic,
        one.size_bytes + other.size_bytes,
    )


def embedded_rows(
    tower_version: str,
    records: Records,
    tails: list[bytes],
    vectors: npt.NDArray[np.float32],
    input_mask: Ints,
) -> EmbeddedRows:
    """One row per record, in order. Shapes: records (N,), vectors (N, D), input_mask (N,)."""
    pin_ids = records["pin_id"].tolist()
    suffix = embedded_key(0, tower_version).decode()[1:]
    columns: list[pl.Series | str] = [f'{{"tower_version":"{tower_version}"']
    for name in _NUMBERS:
        columns += [f',"{name}":', _numbers(records[name])]
    columns += [',"input_mask":', _numbers(input_mask)]
    columns += [',"status":', _texts(_STATUS_TEXTS, records["status"]), ',"title":', _titles(tails)]
    columns += [',"vector":"', base64_fp16(vectors), '"}']
    keys, values = [f"{pin}{suffix}" for pin in pin_ids], _concatenated(columns, len(records))
    return EmbeddedRows(
        tower_version=tower_version,
        keys=keys,
        values=values.to_list(),
        partitions=records["partition"].tolist(),
        size_bytes=len("".join(keys)) + int(values.str.len_bytes().sum()),
    )


def _concatenated(columns: list[pl.Series | str], height: int) -> pl.Series:
    """Join the columns row by row. Neighbouring constants become one, so a constant column costs nothing."""
    parts: list[pl.Expr] = []
    series: list[pl.Series] = []
    constant = ""
    for column in columns:
        if isinstance(column, str):
            constant += column
            continue
        name = str(len(series))
        series.append(column.alias(name))
        parts += [pl.lit(constant), pl.col(name)]
        constant = ""
    if not height:
        return pl.Series(dtype=pl.String)
    return pl.DataFrame(series).select(pl.concat_str([*parts, pl.lit(constant)])).to_series()


def _numbers(values: npt.NDArray[np.generic]) -> pl.Series | str:
    first = values[:1]
    if len(values) and (values == first).all():
        return str(first.item())
    return pl.Series(np.ascontiguousarray(values))


def _texts(texts: npt.NDArray[np.str_], codes: npt.NDArray[np.uint8]) -> pl.Series | str:
    if len(codes) and (codes == codes[0]).all():
        return str(texts[codes[0]])
    return pl.Series(texts[codes].tolist(), dtype=pl.String)


def _titles(tails: list[bytes]) -> pl.Series | str:
    """The stored JSON text of each title; a Pin without one has the empty text."""
    if not any(tails):
        return '""'
    return pl.Series([tail or b'""' for tail in tails], dtype=pl.Binary).cast(pl.String)


def base64_fp16(vectors: npt.NDArray[np.generic]) -> pl.Series:
    """Each row as base64 of little-endian fp16."""
    packed = np.ascontiguousarray(vectors, "<f2")
    width = packed.shape[1] * _FP16_BYTES
    cells = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(packed), [None, pa.py_buffer(packed)])
    series = pl.Series(pl.from_arrow(cells.cast(pa.binary())))
    return series.bin.encode("base64")
