"""Pin states survive the way over a compacted topic, and merge source by source."""

from typing import Any

import numpy as np
import pytest

from features.pin_state import AGGREGATED, CHANGED, PIN_RECORD, Records, empty_records
from features.store import MemoryStore
from schemas.codec import decode
from schemas.states import PinFeatures
from streams.state_rows import SOURCE_FIELDS, ReadStates, StateRowDecoder, feature_rows, merge_states

_LIMITS = {"status": 4, "interest_targeting": 2, "search_term_targeting": 2, "auto_targeting": 2}
TITLES = [b"", '"Crème «brûlée» \\"2\\""'.encode(), b'"\\u0001 \\\\"']


def _states(count: int, seed: int) -> tuple[Records, list[bytes]]:
    rng = np.random.default_rng(seed)
    records = empty_records(np.arange(count))
    for name in PIN_RECORD.names or ():
        column = records[name]
        if name == "pin_id":
            continue
        if name == "content_embedding":
            records[name] = rng.normal(size=column.shape)
            continue
        records[name] = np.sort(rng.integers(0, _LIMITS.get(name, 30), column.shape), axis=-1)
    return records, [TITLES[pin % len(TITLES)] for pin in range(count)]


def _read(records: Records, tails: list[bytes]) -> ReadStates:
    rows = feature_rows(records, tails)
    return StateRowDecoder().decode([value.encode() for value in rows.values], np.array(rows.partitions))


def test_a_state_comes_back_as_it_was() -> None:
    records, tails = _states(50, seed=1)
    read = _read(records, tails)
    assert read.records.tobytes() == records.tobytes()
    assert read.tails == [b"", *('"Crème «brûlée» \\"2\\""'.encode(), b'"\\u0001 \\\\"')] * 16 + tails[48:]
    assert not read.unreadable


def test_a_row_is_what_the_published_schema_says() -> None:
    records, tails = _states(5, seed=2)
    rows = feature_rows(records, tails)
    for key, value, pin in zip(rows.keys, rows.values, range(5), strict=True):
        one = decode(PinFeatures, value.encode())
        assert (key, one.pin_id) == (str(pin), pin)
        assert one.display_stores == records["display_stores"][pin].tolist()


def test_nothing_known_takes_few_bytes_and_comes_back() -> None:
    records = empty_records(np.array([7]))
    rows = feature_rows(records, [b""])
    assert rows.values == ['{"pin_id":7,"changed_offset":-1,"aggregated_offset":-1}']
    assert _read(records, [b""]).records.tobytes() == records.tobytes()


def test_every_field_of_the_record_is_on_the_topic_and_belongs_to_one_source() -> None:
    names = set(PIN_RECORD.names or ()) - {"partition"}
    assert names <= set(PinFeatures.model_fields)
    assert set(PinFeatures.model_fields) - names == {"title"}
    fields = [*SOURCE_FIELDS[CHANGED], *SOURCE_FIELDS[AGGREGATED]]
    of_both = {"pin_id", CHANGED, AGGREGATED, "occurred_at_ms", "ingested_at_ms"}
    assert sorted(fields) == sorted(names - of_both)
    assert set(SOURCE_FIELDS[AGGREGATED]) == {"offsite_visits", "engagements"}


@pytest.mark.parametrize("bad", [None, b"", b"{", b'{"pin_id":1}', b"null"])
def test_a_row_that_cannot_be_read_is_told_and_the_others_come_back(bad: bytes | None) -> None:
    records, tails = _states(4, seed=3)
    rows = feature_rows(records, tails)
    values: list[bytes | None] = [value.encode() for value in rows.values]
    values[2] = bad
    read = StateRowDecoder().decode(values, np.array(rows.partitions))
    assert list(read.unreadable) == [2]
    assert read.records["pin_id"].tolist() == [0, 1, 3]
    assert read.records["partition"].tolist() == [rows.partitions[place] for place in (0, 1, 3)]


def _pin(**fields: Any) -> Records:
    records = empty_records(np.array([1]))
    for name, value in fields.items():
        records[name] = value
    return records


def _merged(store: MemoryStore, *rows: Records) -> Records:
    tails = [b'"%d"' % int(row[CHANGED][0]) for row in rows]
    merged = merge_states(store, ReadStates(np.concatenate(rows), tails, {}))
    store.put_many(merged.pin_ids, merged.records, merged.tails)
    return merged.records


def test_of_several_rows_each_source_takes_its_newest() -> None:
    older = _pin(changed_offset=5, aggregated_offset=9, price_micros=50, engagements=[1, 1, 1, 9])
    newer = _pin(changed_offset=7, aggregated_offset=2, price_micros=70, engagements=[1, 1, 1, 2])
    for rows in ((older, newer), (newer, older)):
        store = MemoryStore(PIN_RECORD)
        one = _merged(store, *rows)
        assert (one[CHANGED][0], one["price_micros"][0]) == (7, 70)
        assert (one[AGGREGATED][0], one["engagements"][0].tolist()) == (9, [1, 1, 1, 9])
        assert store.get_many(np.array([1]))[2] == [b'"7"']


def test_an_older_row_changes_nothing_in_a_store_that_is_ahead() -> None:
    store = MemoryStore(PIN_RECORD)
    ahead = _merged(store, _pin(changed_offset=8, price_micros=80, occurred_at_ms=8, bid_micros=3))
    again = _merged(store, _pin(changed_offset=6, price_micros=60, occurred_at_ms=6))
    assert again.tobytes() == ahead.tobytes()
    assert store.get_many(np.array([1]))[2] == [b'"8"']


def test_merging_is_the_same_in_any_order_and_twice() -> None:
    rng = np.random.default_rng(4)
    rows = [
        _pin(
            changed_offset=c, aggregated_offset=a, price_micros=c, engagements=[0, 0, 0, a], occurred_at_ms=c
        )
        for c, a in rng.integers(-1, 6, (12, 2)).tolist()
    ]
    wanted = _merged(MemoryStore(PIN_RECORD), *rows).tobytes()
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(len(rows)).tolist()
        store = MemoryStore(PIN_RECORD)
        _merged(store, *[rows[place] for place in order[:5]])
        assert _merged(store, *[rows[place] for place in order]).tobytes() == wanted
