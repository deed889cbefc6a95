from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.embedding_table import Applied, EmbeddedBatch, EmbeddingTable
from index.snapshots import ATTRIBUTES, SnapshotRows

DIMENSION = 4
Row = tuple[int, str, int, int]
"""Pin, version, changed offset, aggregated offset; everything else follows from them."""


def batch(rows: list[Row]) -> EmbeddedBatch:
    versions = sorted({version for _, version, _, _ in rows})
    attributes = np.zeros(len(rows), ATTRIBUTES)
    for i, (pin, _, changed, aggregated) in enumerate(rows):
        attributes[i]["pin_id"] = pin
        attributes[i]["changed_offset"] = changed
        attributes[i]["aggregated_offset"] = aggregated
        attributes[i]["bid_micros"] = 1000 * changed + aggregated
    return EmbeddedBatch(
        attributes=attributes,
        vectors=[np.full(DIMENSION, 100 * c + a, "<f2").tobytes() for _, _, c, a in rows],
        titles=[f"{pin} at {c}/{a}" for pin, _, c, a in rows],
        versions=versions,
        version_code=np.array([versions.index(version) for _, version, _, _ in rows], np.uint8),
    )


def table(*batches: list[Row], versions: str = "ab") -> EmbeddingTable:
    made = EmbeddingTable()
    made.keep(dict.fromkeys(versions, DIMENSION))
    for rows in batches:
        made.apply(batch(rows))
    return made


def contents(rows: SnapshotRows) -> dict[int, tuple[int, int, float, str, int]]:
    return {
        int(fields["pin_id"]): (
            int(fields["changed_offset"]),
            int(fields["aggregated_offset"]),
            float(vector[0]),
            title,
            int(fields["bid_micros"]),
        )
        for fields, vector, title in zip(rows.attributes, rows.vectors, rows.titles.to_pylist(), strict=True)
    }


def test_the_row_of_the_higher_revision_stays_whole() -> None:
    made = table([(7, "a", 5, 2), (7, "a", 6, 2), (7, "a", 1, 3)])
    assert contents(made.rows("a")) == {7: (6, 2, 602.0, "7 at 6/2", 6002)}


def test_rows_are_counted_by_what_became_of_them() -> None:
    made = table(versions="a")
    # Pin 7 goes up twice; then comes an older row, and the newest again; version z is not live.
    rows: list[Row] = [(7, "a", 1, 0), (7, "a", 3, 0), (7, "a", 2, 0), (7, "a", 3, 0), (8, "z", 1, 1)]
    assert made.apply(batch(rows)) == Applied(applied=2, late=1, repeated=1, foreign=1)
    assert made.apply(batch([(7, "a", 3, 0), (7, "a", 0, 0), (9, "a", -1, -1)])) == Applied(
        applied=1, late=1, repeated=1
    )


def test_each_live_version_has_its_own_rows_and_others_stay_out() -> None:
    made = table([(7, "a", 1, 1), (7, "b", 2, 2), (7, "z", 3, 3)])
    assert contents(made.rows("a"))[7][:2] == (1, 1)
    assert contents(made.rows("b"))[7][:2] == (2, 2)
    assert made.versions == ["a", "b"]
    assert made.rows("b").histogram() == {"b": 1}


def test_a_version_that_is_no_longer_live_is_dropped() -> None:
    made = table([(7, "a", 1, 1), (7, "b", 2, 2)])
    assert made.keep({"b": DIMENSION, "c": DIMENSION}) == ["c"]
    assert made.versions == ["b", "c"]
    assert made.size("b") == 1 and made.size("c") == 0


def test_deleted_pins_stay_as_rows() -> None:
    rows = batch([(7, "a", 1, 1)])
    rows.attributes["status"] = 3
    made = table()
    made.apply(rows)
    assert made.rows("a").attributes["status"].tolist() == [3]


def test_a_candidate_covers_when_it_has_every_pin_of_the_serving_version() -> None:
    made = table([(1, "a", 1, 1), (2, "a", 1, 1), (1, "b", 1, 1), (3, "b", 1, 1)])
    assert not made.covers("b", "a")
    made.apply(batch([(2, "b", 0, 0)]))
    assert made.covers("b", "a") and not made.covers("a", "b")


def test_changed_says_whether_a_cut_would_differ() -> None:
    made = table([(1, "a", 2, 2)])
    assert made.changed("a") and not made.changed("b")
    made.mark_cut("a")
    made.apply(batch([(1, "a", 2, 2), (1, "a", 1, 1)]))
    assert not made.changed("a")
    made.apply(batch([(1, "a", 3, 2)]))
    assert made.changed("a")


def test_a_vector_of_another_dimension_is_refused() -> None:
    rows = replace(batch([(1, "a", 1, 1)]), vectors=[bytes(6)])
    with pytest.raises(ValueError, match="reshape"):
        table().apply(rows)


def test_a_table_grows_beyond_its_first_capacity() -> None:
    rows: list[Row] = [(pin, "a", pin % 60, 0) for pin in range(3000)]
    made = table(rows[:1500], rows[1500:])
    held = contents(made.rows("a"))
    assert len(held) == 3000
    assert held[2999] == (59, 0, 5900.0, "2999 at 59/0", 59_000)


rows_of_two_pins = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(-1, 5), st.integers(-1, 5)), max_size=25
)


def _newest(rows: list[Row], version: str) -> dict[int, tuple[int, int]]:
    """The definition: per Pin the highest (revision, changed offset)."""
    newest: dict[int, tuple[int, int]] = {}
    for pin, its, changed, aggregated in rows:
        old = newest.get(pin, (-9, -9))
        if its == version and (changed + aggregated, changed) > (sum(old), old[0]):
            newest[pin] = (changed, aggregated)
    return newest


@given(rows_of_two_pins, st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_give_the_same_table(rows: list[Row], random: Random) -> None:
    again = rows + rows[::2]
    random.shuffle(again)
    cut = len(again) // 3
    for version in "ab":
        expected = _newest(rows, version)
        for made in (table(rows), table(again[:cut], again[cut:]), table(*[[row] for row in again])):
            held = contents(made.rows(version))
            assert {pin: row[:2] for pin, row in held.items()} == expected
            assert all(row[2] == 100 * row[0] + row[1] for row in held.values())


@given(rows_of_two_pins, rows_of_two_pins)
def test_a_table_loaded_from_its_rows_goes_on_like_the_original(first: list[Row], then: list[Row]) -> None:
    original, loaded = table(first), table()
    for version in "ab":
        loaded.load(version, original.rows(version))
        assert not loaded.changed(version)
    assert original.apply(batch(then)) == loaded.apply(batch(then))
    for version in "ab":
        assert contents(original.rows(version)) == contents(loaded.rows(version))


@given(rows_of_two_pins)
def test_every_row_is_counted_once(rows: list[Row]) -> None:
    made = table(versions="a")
    counts = made.apply(batch(rows))
    assert counts.applied + counts.late + counts.repeated + counts.foreign == len(rows)
    assert counts.foreign == sum(version == "b" for _, version, _, _ in rows)
