"""The newest row of every Pin out of several snapshots, whatever their tower versions.

What an hourly union of shards does. It mixes versions on purpose, so only a release that is built with
`tolerate` may hold its rows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import Refused

from .row_files import ATTRIBUTES, Attributes, Matrix, SnapshotRows, whole_rows

Ints = npt.NDArray[np.int64]


def stacked(parts: Sequence[SnapshotRows]) -> tuple[SnapshotRows, Ints]:
    """All rows one after the other, and of each which part it is from. One part comes back as it is.

    Raises Refused (`wrong_dimension`) when the parts do not have one dimension.
    """
    if len(parts) == 1:
        return parts[0], np.zeros(len(parts[0]), np.int64)
    places = np.arange(sum(len(part) for part in parts))
    return _placed(parts, places)


def by_pin_id(parts: Sequence[SnapshotRows]) -> tuple[SnapshotRows, Ints]:
    """All rows in the order of their Pin ids, and of each which part it is from. Each is copied once.

    Raises Refused as `stacked` does.
    """
    pins = np.concatenate([part.attributes["pin_id"] for part in parts])
    order = np.argsort(pins, kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return _placed(parts, places)


def _placed(parts: Sequence[SnapshotRows], places: Ints) -> tuple[SnapshotRows, Ints]:
    """Row i of all parts, counted through, goes to `places[i]`."""
    dimensions = sorted({part.vectors.shape[1] for part in parts})
    if len(dimensions) != 1:
        fix = "Vectors of unlike length cannot be in one index: leave the other snapshots out."
        raise Refused("wrong_dimension", f"{dimensions[0]} dimensions everywhere", str(dimensions), fix)
    versions = sorted({version for part in parts for version in part.versions})
    attributes: Attributes = np.empty(len(places), ATTRIBUTES)
    vectors: Matrix = np.empty((len(places), dimensions[0]), np.float16)
    code, source = np.empty(len(places), np.uint8), np.empty(len(places), np.int64)
    start = 0
    for number, part in enumerate(parts):
        mine = places[start : start + len(part)]
        whole_rows(attributes)[mine] = whole_rows(part.attributes)
        whole_rows(vectors)[mine] = whole_rows(part.vectors)
        source[mine] = number
        recode = np.array([versions.index(one) for one in part.versions] or [0], np.uint8)
        code[mine] = recode[part.version_code]
        start += len(part)
    order = np.empty(len(places), np.int64)
    order[places] = np.arange(len(places))
    titles = pa.concat_arrays([part.titles for part in parts]).take(pa.array(order))
    return SnapshotRows(attributes, vectors, versions, code, titles), source


def newest_of_each_pin(rows: SnapshotRows, source: Ints) -> tuple[SnapshotRows, Ints]:
    """One row a Pin, by Pin id: the one of the highest revision, of equals the one of the latest source.

    A revision is `changed_offset + aggregated_offset`, then `changed_offset`, as everywhere.
    """
    fields = rows.attributes
    revision = fields["changed_offset"] + fields["aggregated_offset"]
    order = np.lexsort((source, fields["changed_offset"], revision, fields["pin_id"]))
    last = np.append(np.diff(fields["pin_id"][order]) != 0, [True] * bool(len(order)))
    picked = order[last.astype(np.bool_)]
    return only_versions_in_use(rows.take(picked)), source[picked]


def only_versions_in_use(rows: SnapshotRows) -> SnapshotRows:
    """The same rows, without the versions that no row is of."""
    present = list(rows.histogram())
    recode = np.zeros(max(len(rows.versions), 1), np.uint8)
    for code, version in enumerate(rows.versions):
        recode[code] = present.index(version) if version in present else 0
    return replace(rows, versions=present, version_code=recode[rows.version_code])
