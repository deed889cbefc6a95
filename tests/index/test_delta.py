"""Base and delta segment together are the release that would be built from the same final state."""

import hashlib
import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.pin_state import STATUS_CODES
from index.delta import DeltaSegment, build_segment
from index.delta_fold import NO_VERSION, Base, DeltaFold
from index.embedding_table import EmbeddedBatch
from index.row_files import ATTRIBUTES
from schemas.errors import Refused

V = hashlib.sha256(b"the release's tower").hexdigest()
W = hashlib.sha256(b"another tower").hexdigest()
DIMENSION = 2


@dataclass(frozen=True)
class Row:
    """One row on a topic: a Pin's bid and, under a version, its vector (value, value)."""

    pin: int
    revision: int
    bid: int
    version: str = V
    status: str = "active"
    value: float = 0.0


def batch(*rows: Row) -> EmbeddedBatch:
    fields = np.zeros(len(rows), ATTRIBUTES)
    for place, row in enumerate(rows):
        fields[place]["pin_id"] = row.pin
        fields[place]["changed_offset"] = row.revision
        fields[place]["aggregated_offset"] = -1
        fields[place]["bid_micros"] = row.bid
        fields[place]["status"] = STATUS_CODES[row.status]
        fields[place]["ingested_at_ms"] = 1_000 + row.revision
    versions = sorted({row.version for row in rows})
    return EmbeddedBatch(
        attributes=fields,
        vectors=[
            b"" if r.version == NO_VERSION else np.full(DIMENSION, r.value, "<f2").tobytes() for r in rows
        ],
        titles=[f"title {row.revision}" for row in rows],
        versions=versions,
        version_code=np.array([versions.index(row.version) for row in rows], np.uint8),
    )


def fold_of(*rows: Row, max_vectors: int = 100, dimensions: dict[str, int] | None = None) -> DeltaFold:
    fold = DeltaFold(max_vectors)
    fold.keep({V: DIMENSION} if dimensions is None else dimensions)
    if rows:
        fold.apply(batch(*rows))
    return fold


def base_of(*rows: Row) -> Base:
    return Base.of(batch(*rows).attributes, V)


def bids(segment: DeltaSegment) -> dict[int, int]:
    return dict(
        zip(segment.attributes["pin_id"].tolist(), segment.attributes["bid_micros"].tolist(), strict=True)
    )


def overlay(segment: DeltaSegment) -> dict[int, float]:
    pins = segment.attributes["pin_id"][segment.overlay_start :].tolist()
    return dict(zip(pins, segment.vectors[:, 0].tolist(), strict=True))


def test_nothing_newer_gives_nothing() -> None:
    base = base_of(Row(1, 5, 10), Row(2, 6, 20))
    segment = build_segment(fold_of(Row(1, 5, 10, value=1.0), Row(2, 4, 99, value=1.0)), base, DIMENSION)
    assert (len(segment), len(segment.superseded)) == (0, 0)


def test_a_newer_row_of_the_releases_version_is_an_overlay_row() -> None:
    segment = build_segment(
        fold_of(Row(1, 7, 11, value=0.5)), base_of(Row(1, 5, 10), Row(2, 6, 20)), DIMENSION
    )
    assert bids(segment) == {1: 11}
    assert overlay(segment) == {1: 0.5}
    assert segment.superseded.tolist() == [0]
    assert segment.titles == ["title 7"]
    assert segment.newest_ingest_ms == 1_007


def test_a_row_of_another_version_gives_its_attributes_and_not_its_vector() -> None:
    """Invariant 7: attributes do not wait for an embedding of the release's version."""
    base = base_of(Row(1, 5, 10), Row(2, 6, 20))
    segment = build_segment(fold_of(Row(2, 9, 21, version=W, value=0.5)), base, DIMENSION)
    assert bids(segment) == {2: 21}
    assert overlay(segment) == {}
    assert (segment.patched.tolist(), segment.superseded.tolist()) == ([1], [])


def test_newest_attributes_meet_the_newest_vector_of_the_releases_version() -> None:
    rows = Row(1, 7, 11, value=0.5), Row(1, 8, 12, version=W, value=0.9), Row(1, 9, 13, version=NO_VERSION)
    segment = build_segment(fold_of(*rows), base_of(Row(1, 5, 10)), DIMENSION)
    assert bids(segment) == {1: 13}
    assert overlay(segment) == {1: 0.5}


def test_a_new_pin_waits_for_an_embedding_of_the_releases_version() -> None:
    fold = fold_of(Row(3, 1, 30, version=W, value=0.5), Row(4, 1, 40, version=NO_VERSION))
    segment = build_segment(fold, base_of(Row(1, 5, 10)), DIMENSION)
    assert (len(segment), segment.counts.waiting) == (0, 2)
    fold.apply(batch(Row(3, 2, 31, value=0.25)))
    segment = build_segment(fold, base_of(Row(1, 5, 10)), DIMENSION)
    assert overlay(segment) == {3: 0.25}
    assert (segment.counts.new, segment.counts.waiting) == (1, 1)


def test_a_deleted_pin_keeps_its_row_as_a_patch_and_needs_no_vector() -> None:
    deleted = Row(1, 7, 10, status="deleted", value=0.5), Row(9, 3, 10, status="deleted", value=0.5)
    segment = build_segment(fold_of(*deleted), base_of(Row(1, 5, 10)), DIMENSION)
    assert segment.patched.tolist() == [0]
    assert segment.attributes["status"].tolist() == [STATUS_CODES["deleted"]]
    assert (segment.counts.overlay, segment.counts.deleted, segment.counts.waiting) == (0, 1, 0)


def test_beyond_the_bound_vectors_stay_out_and_attributes_act() -> None:
    base = base_of(Row(1, 5, 10), Row(2, 5, 20), Row(3, 5, 30))
    fold = fold_of(Row(1, 6, 11, value=0.5), max_vectors=1)
    fold.apply(
        batch(Row(2, 6, 21, value=0.5), Row(3, 6, 30, status="deleted", value=0.5), Row(4, 6, 40, value=0.5))
    )
    fold.apply(batch(Row(1, 7, 12, value=0.75)))
    segment = build_segment(fold, base, DIMENSION)
    assert overlay(segment) == {1: 0.75}
    assert bids(segment) == {1: 12, 2: 21, 3: 30}
    assert segment.counts.deleted == 1
    assert (segment.counts.refused, segment.counts.waiting) == (2, 1)


def test_what_no_release_needs_is_forgotten() -> None:
    fold = fold_of(Row(1, 6, 11, value=0.5), Row(2, 6, 21, value=0.5), Row(3, 1, 1, value=0.5))
    older, newer = base_of(Row(1, 5, 10), Row(2, 6, 21)), base_of(Row(1, 6, 11), Row(2, 6, 21), Row(3, 1, 1))
    fold.forget([older, newer])
    assert overlay(build_segment(fold, older, DIMENSION)) == {1: 0.5, 3: 0.5}
    assert len(build_segment(fold, newer, DIMENSION)) == 0
    fold.forget([newer])
    assert len(fold.attributes()) == 0


@pytest.mark.parametrize("together", [False, True])
def test_deleted_pins_take_no_room_from_others(together: bool) -> None:
    gone, more, comes = (
        Row(1, 6, 11, status="deleted"),
        Row(2, 7, 21, status="deleted"),
        Row(7, 8, 70, value=0.5),
    )
    fold = fold_of(Row(1, 5, 10), max_vectors=1)
    for rows in [[gone, more, comes]] if together else [[gone], [more], [comes]]:
        fold.apply(batch(*rows))
    segment = build_segment(fold, base_of(Row(1, 1, 10), Row(2, 1, 20)), DIMENSION)
    assert overlay(segment) == {7: 0.5}
    assert (segment.counts.deleted, segment.counts.refused) == (2, 0)


def test_a_delete_that_comes_late_takes_nobodys_room() -> None:
    fold = fold_of(Row(1, 7, 11, value=0.25), max_vectors=1)
    fold.apply(batch(Row(1, 6, 11, status="deleted"), Row(7, 8, 70, value=0.5)))
    segment = build_segment(fold, base_of(Row(1, 1, 10)), DIMENSION)
    assert (overlay(segment), segment.counts.refused) == ({1: 0.25}, 1)


def test_an_overlay_of_two_versions_is_refused() -> None:
    """The homogeneity gate counts the rows' own tags, whatever table they got into."""
    fold = fold_of(Row(1, 6, 11, value=0.5))
    fold._table._tables[V].tags[0] = W
    with pytest.raises(Refused) as caught:
        build_segment(fold, base_of(Row(1, 5, 10)), DIMENSION)
    assert caught.value.code == "mixed_versions"


def test_a_vector_that_is_not_finite_is_refused() -> None:
    with pytest.raises(Refused, match="finite"):
        build_segment(fold_of(Row(1, 6, 11, value=float("nan"))), base_of(Row(1, 5, 10)), DIMENSION)


@pytest.mark.parametrize("unsorted", [False, True])
def test_a_base_finds_its_pins_in_any_order(unsorted: bool) -> None:
    rows = [Row(5, 1, 1), Row(7, 1, 1), Row(9, 1, 1)]
    base = base_of(*(reversed(rows) if unsorted else rows))
    found = base.find(np.array([9, 4, 5, 7, 10]))
    assert found.tolist() == ([0, -1, 2, 1, -1] if unsorted else [2, -1, 0, 1, -1])
    assert base_of().find(np.array([1])).tolist() == [-1]


@dataclass
class Oracle:
    """Pin by Pin, in plain Python: the newest attributes of anything, the newest vector of V."""

    attributes: dict[int, Row] = field(default_factory=dict)
    vectors: dict[int, Row] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        if row.pin not in self.attributes or row.revision > self.attributes[row.pin].revision:
            self.attributes[row.pin] = row
        newest = self.vectors.get(row.pin)
        if row.version == V and (newest is None or row.revision > newest.revision):
            self.vectors[row.pin] = row

    def servable(self) -> dict[int, tuple[int, float]]:
        return {
            pin: (self.attributes[pin].bid, np.float16(row.value).item())
            for pin, row in self.vectors.items()
            if self.attributes[pin].status != "deleted"
        }


# A state of a Pin is one thing: whatever row brings revision r of Pin p, it says the same.
_ROWS = st.builds(
    lambda pin, revision, version: Row(
        pin,
        revision,
        bid=100 * pin + revision,
        version=version,
        status=["active", "paused", "active", "deleted"][(pin + revision) % 4],
        value=(pin * 7 + revision) / 16,
    ),
    pin=st.integers(1, 6),
    revision=st.integers(0, 9),
    version=st.sampled_from([V, W, NO_VERSION]),
)


@settings(max_examples=200, deadline=None)
@given(
    in_base=st.lists(_ROWS, max_size=12),
    came=st.lists(_ROWS, max_size=25),
    cuts=st.lists(st.integers(0, 25), max_size=3),
)
def test_base_and_segment_are_the_final_state(in_base: list[Row], came: list[Row], cuts: list[int]) -> None:
    oracle, start = Oracle(), Oracle()
    for row in in_base:
        if row.version == V:
            start.take(row)
            oracle.take(row)
    base_rows = [start.vectors[pin] for pin in sorted(start.vectors)]
    fold = fold_of()
    bounds = sorted({0, len(came), *(min(cut, len(came)) for cut in cuts)})
    for first, last in itertools.pairwise(bounds):
        fold.apply(batch(*came[first:last]))
    for row in came:
        oracle.take(row)
    base = Base.of(batch(*base_rows).attributes, V) if base_rows else base_of()
    segment = build_segment(fold, base, DIMENSION)
    assert final_state(base_rows, segment) == oracle.servable()
    assert set(segment.patched.tolist()).isdisjoint(segment.superseded.tolist())
    assert segment.counts.superseded + segment.counts.new == segment.counts.overlay


def final_state(base_rows: list[Row], segment: DeltaSegment) -> dict[int, tuple[int, float]]:
    """Pin -> (bid, vector) of what may be found: base rows that are not superseded, and the overlay."""
    found = {}
    patches = dict(zip(segment.patched.tolist(), segment.attributes[: segment.overlay_start], strict=True))
    for number, row in enumerate(base_rows):
        if number in segment.superseded.tolist():
            continue
        fields = patches.get(number)
        status = STATUS_CODES[row.status] if fields is None else int(fields["status"])
        if status != STATUS_CODES["deleted"]:
            bid = row.bid if fields is None else int(fields["bid_micros"])
            found[row.pin] = (bid, np.float16(row.value).item())
    for fields, vector in zip(segment.attributes[segment.overlay_start :], segment.vectors, strict=True):
        found[int(fields["pin_id"])] = (int(fields["bid_micros"]), float(vector[0]))
    return found
