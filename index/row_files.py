"""The files that snapshots and releases share: vectors and attributes; row i of one is row i of the other.

`vectors.safetensors` holds one little-endian fp16 matrix and is mapped, never parsed row by row;
`attributes.parquet` holds a row's ids, attributes, title and tower version. Both have deterministic
bytes for equal rows (under one pyarrow version, whose name Parquet puts into the footer).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import save_file

from schemas.artefacts import naming
from schemas.errors import Refused

from .heap import give_memory_back

VECTORS = "vectors.safetensors"
ATTRIBUTES_FILE = "attributes.parquet"

ATTRIBUTES = np.dtype(
    [
        ("pin_id", "<i8"),
        ("advertiser_id", "<i8"),
        ("price_micros", "<i8"),
        ("bid_micros", "<i8"),
        ("daily_budget_micros", "<i8"),
        ("starts_at_ms", "<i8"),
        ("ends_at_ms", "<i8"),
        ("occurred_at_ms", "<i8"),
        ("ingested_at_ms", "<i8"),
        ("changed_offset", "<i8"),
        ("aggregated_offset", "<i8"),
        ("input_mask", "<i8"),
        ("target_ages", "<u2"),
        ("status", "u1"),
    ]
)
"""One Pin's attributes at its embedding. `status` is a code of `features.pin_state.STATUS_CODES`."""

Attributes = npt.NDArray[np.void]
Matrix = npt.NDArray[np.float16]

_TENSOR = "vectors"
_TITLE, _VERSION = "title", "tower_version"
_ROW_GROUP = 1 << 17
# Sorted or nearly constant per row group: differences are small where the values are not.
_DELTA_CODED = ("pin_id", "changed_offset", "aggregated_offset", "occurred_at_ms", "ingested_at_ms")


def whole_rows(array: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """A view of [N] records or an [N, D] matrix as N opaque items, to be picked and placed.

    numpy moves such items ten times as fast as it moves records field by field, or rows number by number.
    """
    array = np.ascontiguousarray(array)
    per_row = int(np.prod(array.shape[1:]))
    item = np.dtype((np.void, per_row * array.dtype.itemsize))
    items: npt.NDArray[np.void] = array.reshape(len(array), per_row).view(item)[:, 0]
    return items


@dataclass(frozen=True)
class SnapshotRows:
    """Embedded Pins. Row i of every part is the same Pin.

    `vectors` is fp16 [N, D], `version_code[i]` an index into `versions`, the distinct tower versions.
    """

    attributes: Attributes
    vectors: Matrix
    versions: list[str]
    version_code: npt.NDArray[np.uint8]
    titles: pa.StringArray

    def __len__(self) -> int:
        return len(self.attributes)

    def histogram(self) -> dict[str, int]:
        """Rows per tower version, counted from the rows."""
        counts = np.bincount(self.version_code, minlength=len(self.versions))
        return {version: int(n) for version, n in zip(self.versions, counts, strict=True) if n}

    def take(self, order: npt.NDArray[np.intp]) -> "SnapshotRows":
        """The rows at these positions, in this order."""
        return replace(
            self,
            attributes=whole_rows(self.attributes)[order].view(ATTRIBUTES),
            vectors=whole_rows(self.vectors)[order]
            .view(self.vectors.dtype)
            .reshape(len(order), self.vectors.shape[1]),
            version_code=self.version_code[order],
            titles=self.titles.take(pa.array(order)),
        )

    def of_version(self, version: str) -> "SnapshotRows":
        """Only the rows of one tower version: during a rollover each version gets its own snapshot."""
        code = self.versions.index(version) if version in self.versions else -1
        picked = self.take(np.flatnonzero(self.version_code == code))
        return replace(picked, versions=[version], version_code=np.zeros(len(picked), np.uint8))


def write_vectors(directory: Path, vectors: Matrix) -> None:
    """Write `vectors.safetensors`."""
    write_tensors(directory / VECTORS, {_TENSOR: np.ascontiguousarray(vectors, "<f2")})


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a safetensors file that a server of another user may read (the library opens it to nobody)."""
    with naming(path, SafetensorError):
        save_file(dict(tensors), path)
    path.chmod(0o644)


def map_vectors(directory: Path) -> Matrix:
    """The matrix, mapped read-only: nothing is read before it is used. Raises Refused for anything else."""
    raw = np.memmap(directory / VECTORS, np.uint8, "r")
    try:
        size = int.from_bytes(raw[:8].tobytes(), "little")
        spec = json.loads(raw[8 : 8 + size].tobytes())[_TENSOR]
        begin, end = spec["data_offsets"]
        if spec["dtype"] != "F16":
            raise ValueError(f"a tensor of {spec['dtype']}")
        rows, dimension = spec["shape"]
        matrix: Matrix = raw[8 + size :][begin:end].view("<f2").reshape(rows, dimension)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(VECTORS, "one fp16 matrix", error) from error
    return matrix


def write_attributes(directory: Path, rows: SnapshotRows) -> None:
    """Write `attributes.parquet`: the fields of ATTRIBUTES, then `tower_version`, then `title`."""
    columns: dict[str, pa.Array] = {
        name: pa.array(np.ascontiguousarray(rows.attributes[name])) for name in ATTRIBUTES.fields or ()
    }
    codes = pa.array(rows.version_code.astype(np.int32))
    columns[_VERSION] = pa.DictionaryArray.from_arrays(codes, pa.array(rows.versions, pa.string()))
    columns[_TITLE] = rows.titles
    with naming(directory / ATTRIBUTES_FILE):
        pq.write_table(
            pa.table(columns),
            directory / ATTRIBUTES_FILE,
            row_group_size=_ROW_GROUP,
            compression="zstd",
            use_dictionary=[name for name in columns if name not in _DELTA_CODED],
            column_encoding=dict.fromkeys(_DELTA_CODED, "DELTA_BINARY_PACKED"),
            write_statistics=False,
        )


def read_pin_ids(directory: Path) -> npt.NDArray[np.int64]:
    """The Pin of each row, int64 [N], by itself: for whoever then reads some of the rows. Raises Refused."""
    try:
        with pq.ParquetFile(directory / ATTRIBUTES_FILE, memory_map=True, pre_buffer=False) as file:
            ids: npt.NDArray[np.int64] = _column(file, "pin_id").to_numpy()
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise _unreadable(ATTRIBUTES_FILE, "a Parquet table of Pin attributes", error) from error
    return ids


def read_rows(directory: Path, kept: npt.NDArray[np.intp] | None = None) -> SnapshotRows:
    """Both files, or of both only the rows at `kept`, copied. The caller has checked their sha256.

    Raises Refused: `unreadable_file` or, when the two disagree about the rows, `row_count`.
    """
    vectors = map_vectors(directory)
    try:
        with pq.ParquetFile(directory / ATTRIBUTES_FILE, memory_map=True, pre_buffer=False) as file:
            total = file.metadata.num_rows
            attributes: Attributes = np.empty(total if kept is None else len(kept), ATTRIBUTES)
            for name in ATTRIBUTES.fields or ():
                # One column at a time: the whole table beside the records would double what a load takes.
                column = _column(file, name).to_numpy()
                attributes[name] = column if kept is None else column[kept]
            titles = _column(file, _TITLE).cast(pa.string()).combine_chunks()
            tags = _column(file, _VERSION).cast(pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
        versions, codes = _version_codes(tags)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise _unreadable(ATTRIBUTES_FILE, "a Parquet table of Pin attributes", error) from error
    give_memory_back()
    if total != len(vectors):
        raise Refused(
            "row_count",
            f"one vector for each of {total} rows",
            f"{len(vectors)} vectors in {directory.name}",
            "The files do not belong together: write the artefact again.",
        )
    if kept is not None:
        vectors, codes, titles = vectors[kept], codes[kept], titles.take(pa.array(kept))
    return SnapshotRows(attributes, vectors, versions, codes, titles)


def _column(file: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    return file.read(columns=[name], use_threads=False)[name]


def _version_codes(tags: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.uint8]]:
    if not len(tags):
        return [], np.empty(0, np.uint8)
    if tags.null_count:
        raise ValueError(f"{tags.null_count} rows have no tower version")
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in tags.chunks])
    return tags.chunk(0).dictionary.to_pylist(), codes.astype(np.uint8)


def _unreadable(name: str, expected: str, error: Exception) -> Refused:
    return Refused("unreadable_file", expected, f"{name}: {error}"[:300], "Write the artefact again.")
