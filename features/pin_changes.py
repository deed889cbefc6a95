"""Partial updates of Pins by columns, and the fold of them into Pin state.

The fold is ordered and idempotent: each source (topic) has its last applied offset in the record,
and an event at or below it changes nothing. So redelivery and replay are harmless.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl

from schemas.batch import UndecodableBatch
from schemas.events import AGE_BANDS, VISIT_WINDOWS_DAYS
from schemas.states import TITLE_TOKENS
from schemas.vectors import CONTENT_DIMENSION

from .pin_state import STATUS_CODES, Records, stable_hash, title_tokens

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Column:
    """The rows of a batch that set one record field, and what they set it to."""

    rows: Rows
    values: npt.NDArray[np.generic]


@dataclass(frozen=True)
class Changes:
    """A decoded batch of one source's events, by record field, rows in arrival order."""

    source: str
    pin_id: npt.NDArray[np.int64]
    occurred_at_ms: npt.NDArray[np.int64]
    columns: dict[str, Column]
    titles: dict[int, bytes]
    """Row -> new title as JSON text, where a row sets one."""


def changes_from_frame(frame: pl.DataFrame, source: str) -> Changes:
    """Columns of a validated batch (`schemas.batch.BatchDecoder`), in record form.

    Raises UndecodableBatch for what the batch rules cannot see: vector contents and window nesting.
    """
    columns: dict[str, Column] = {}
    titles: dict[int, bytes] = {}
    for name in frame.columns:
        series = frame[name]
        if name in ("pin_id", "occurred_at_ms") or series.null_count() == len(series):
            continue
        rows = np.flatnonzero(series.is_not_null().to_numpy())
        filled = series.drop_nulls()
        if name == "title":
            titles = {int(row): orjson.dumps(title) for row, title in zip(rows, filled, strict=True)}
            columns["title_tokens"] = Column(rows, _per_distinct(filled, title_tokens, TITLE_TOKENS))
        else:
            columns[name] = Column(rows, _CONVERTERS[name](filled))
    return Changes(
        source=source,
        pin_id=frame["pin_id"].to_numpy(),
        occurred_at_ms=frame["occurred_at_ms"].to_numpy(),
        columns=columns,
        titles=titles,
    )


def fold(
    records: Records,
    titles: list[bytes],
    slots: npt.NDArray[np.intp],
    changes: Changes,
    offsets: npt.NDArray[np.int64],
    ingested_at_ms: npt.NDArray[np.int64],
) -> int:
    """Merge a batch into the states of its Pins, in place; row i goes to `records[slots[i]]`.

    Rows of one Pin must come in offset order (they share a partition, so they do). Rows that the
    state already holds are passed over. Returns how many rows were applied.
    """
    fresh = offsets > records[changes.source][slots]
    for name, column in changes.columns.items():
        keep = fresh[column.rows]
        last = _last_row_per_slot(slots, column.rows[keep])
        records[name][slots[column.rows[keep]][last]] = column.values[keep][last]
    for row, title in changes.titles.items():
        if fresh[row]:
            titles[slots[row]] = title
    applied = np.flatnonzero(fresh)
    newest = _last_row_per_slot(slots, applied)
    touched = slots[applied][newest]
    records[changes.source][touched] = offsets[applied][newest]
    for name, values in (("occurred_at_ms", changes.occurred_at_ms), ("ingested_at_ms", ingested_at_ms)):
        latest = records[name].copy()
        np.maximum.at(latest, slots[applied], values[applied])
        records[name] = latest
    return len(applied)


def _last_row_per_slot(slots: npt.NDArray[np.intp], rows: Rows) -> Rows:
    """Positions in `rows` of the last row of each slot (rows ascend).

    NOTE: numpy promises no order for repeated indices in an assignment, so duplicates are removed.
    """
    _, first_from_the_end = np.unique(slots[rows][::-1], return_index=True)
    last: Rows = len(rows) - 1 - first_from_the_end
    return last


def _per_distinct(
    series: pl.Series, convert: Callable[[str], object], width: int | None = None
) -> npt.NDArray[np.generic]:
    """Apply a Python conversion once per distinct text and spread the results over the rows."""
    codes = series.rank("dense").to_numpy().astype(np.intp) - 1
    distinct = series.unique().sort()
    table = np.array([convert(text) for text in distinct], dtype=np.uint32)
    spread: npt.NDArray[np.generic] = table[codes] if width is None else table.reshape(-1, width)[codes]
    return spread


def _integers(series: pl.Series) -> npt.NDArray[np.generic]:
    return series.to_numpy()


def _flags(series: pl.Series) -> npt.NDArray[np.generic]:
    return series.cast(pl.UInt8).to_numpy()


def _hashes(series: pl.Series) -> npt.NDArray[np.generic]:
    return _per_distinct(series, stable_hash)


def _status(series: pl.Series) -> npt.NDArray[np.generic]:
    return series.replace_strict(STATUS_CODES, return_dtype=pl.UInt8).to_numpy()


def _ages(series: pl.Series) -> npt.NDArray[np.generic]:
    bits = [sum(1 << AGE_BANDS.index(age) for age in set(ages)) for ages in series.to_list()]
    return np.array(bits, np.uint16)


def _counts(series: pl.Series) -> npt.NDArray[np.generic]:
    return series.explode(empty_as_null=False).to_numpy().astype(np.int32).reshape(len(series), -1)


def _visits(series: pl.Series) -> npt.NDArray[np.generic]:
    counts = _counts(series)
    if (np.diff(counts.astype(np.int64), axis=1) < 0).any():
        raise UndecodableBatch("windows are nested, so counts cannot fall")
    return counts


def _check_sizes(sizes: pl.Series, expected: int) -> None:
    """NOTE: without it two vectors of 47 and 49 dimensions would fill two rows of 48."""
    if (sizes != expected).any():
        raise ValueError(f"a vector has another size than {expected}")


def _vectors(series: pl.Series) -> npt.NDArray[np.generic]:
    try:
        if series.dtype == pl.String:
            decoded = series.str.decode("base64", strict=True)
            _check_sizes(decoded.bin.size(), 2 * CONTENT_DIMENSION)
            packed = b"".join(decoded.to_list())
            vectors = np.frombuffer(packed, "<f2").reshape(len(series), CONTENT_DIMENSION)
        else:
            _check_sizes(series.list.len(), CONTENT_DIMENSION)
            with np.errstate(over="ignore"):
                numbers = (
                    series.explode(empty_as_null=False).to_numpy().reshape(len(series), CONTENT_DIMENSION)
                )
                vectors = numbers.astype("<f2")
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise UndecodableBatch(f"content_embedding: {error}") from error
    if not np.isfinite(vectors).all():
        raise UndecodableBatch("content_embedding: NaN, infinity or beyond fp16")
    return vectors


def unreadable_rows(frame: pl.DataFrame) -> set[int]:
    """The rows of a batch for which `changes_from_frame` would refuse it."""
    bad: set[int] = set()
    for name, good in (
        ("content_embedding", _good_vectors),
        ("offsite_visits", _nested),
        ("engagements", _nested),
    ):
        if name in frame.columns and frame[name].null_count() < frame.height:
            rows = np.flatnonzero(frame[name].is_not_null().to_numpy())
            bad.update(rows[~good(frame[name].drop_nulls())].tolist())
    return bad


def _good_vectors(series: pl.Series) -> npt.NDArray[np.bool_]:
    """Which texts or lists are vectors of the right size with nothing but fp16 numbers in them."""
    if series.dtype == pl.String:
        series = series.str.decode("base64", strict=False)
        sizes, expected = series.bin.size(), 2 * CONTENT_DIMENSION
    else:
        sizes, expected = series.list.len(), CONTENT_DIMENSION
    good: npt.NDArray[np.bool_] = (sizes == expected).fill_null(False).to_numpy(writable=True)
    kept = series.filter(pl.Series(good))
    if kept.dtype == pl.Binary:
        vectors = np.frombuffer(b"".join(kept.to_list()), "<f2")
    else:
        with np.errstate(over="ignore"):
            vectors = kept.explode(empty_as_null=False).to_numpy().astype("<f2")
    good[good] = np.isfinite(vectors.reshape(-1, CONTENT_DIMENSION)).all(axis=1)
    return good


def _nested(series: pl.Series) -> npt.NDArray[np.bool_]:
    """Which windows do not fall; a list of another length is not one of them."""
    good: npt.NDArray[np.bool_] = (series.list.len() == len(VISIT_WINDOWS_DAYS)).to_numpy(writable=True)
    counts = series.filter(pl.Series(good)).explode(empty_as_null=False).to_numpy().astype(np.int64)
    good[good] = (np.diff(counts.reshape(-1, len(VISIT_WINDOWS_DAYS)), axis=1) >= 0).all(axis=1)
    return good


_CONVERTERS: dict[str, Callable[[pl.Series], npt.NDArray[np.generic]]] = {
    "status": _status,
    "category_l1": _hashes,
    "category_l2": _hashes,
    "category_l3": _hashes,
    "brand": _hashes,
    "advertiser_id": _integers,
    "price_micros": _integers,
    "content_embedding": _vectors,
    "display_stores": _counts,
    "mailer_stores": _counts,
    "coupons": _counts,
    "offsite_visits": _visits,
    "engagements": _visits,
    "interest_targeting": _flags,
    "search_term_targeting": _flags,
    "auto_targeting": _flags,
    "target_ages": _ages,
    "bid_micros": _integers,
    "daily_budget_micros": _integers,
    "starts_at_ms": _integers,
    "ends_at_ms": _integers,
}
"""Event field -> record field of the same name; `title` is the one that needs two."""
