from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from index.embedding_table import EmbeddingTable
from index.snapshots import ATTRIBUTES, SnapshotRows
from schemas.events import PinChanged
from streams.cut_gate import CutGate
from streams.embedded_batches import EmbeddedDecoder, Message
from streams.enrichment import enrich
from streams.murmur2 import partitions_of
from tests.fakes import FakePinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.batches import events_batch

C = "c" * 64


def rows(version: str, pins: Mapping[int, int], mark: float = 0.0) -> SnapshotRows:
    """Pin -> revision; `mark` is in every vector."""
    attributes = np.zeros(len(pins), ATTRIBUTES)
    attributes["pin_id"], attributes["changed_offset"] = list(pins), list(pins.values())
    titles = pa.array([""] * len(pins), pa.string())
    vectors = np.full((len(pins), 2), mark, np.float16)
    return SnapshotRows(attributes, vectors, [version], np.zeros(len(pins), np.uint8), titles)


def gate(**versions: Mapping[int, int]) -> tuple[EmbeddingTable, CutGate]:
    """A table of towers `a`, `b`, `c`."""
    names = {"a": VERSION_A, "b": VERSION_B, "c": C}
    table = EmbeddingTable()
    table.keep({names[name]: 2 for name in versions})
    for name, pins in versions.items():
        table.fold(names[name], rows(names[name], pins))
    return table, CutGate(table)


def test_a_version_with_every_pin_lacks_nothing() -> None:
    _, one = gate(a={1: 5, 2: 5}, b={1: 5, 2: 5, 3: 1})

    assert one.lacks(VERSION_B) == ""
    assert one.coverage(VERSION_B, VERSION_A).pins == 2


def test_missing_pins_are_counted_and_the_first_ten_named() -> None:
    _, one = gate(a=dict.fromkeys(range(40), 1), b={3: 1})

    assert one.coverage(VERSION_B, VERSION_A).missing.tolist() == [pin for pin in range(40) if pin != 3]
    assert "no row of 39 of 40 Pins (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, …)" in one.lacks(VERSION_B)


def test_rows_are_compared_with_the_previous_cut_and_not_with_newer_rows() -> None:
    table, one = gate(a={1: 5}, b={1: 5})
    one.remember(VERSION_A)
    table.fold(VERSION_A, rows(VERSION_A, {1: 9}))
    assert one.lacks(VERSION_B) == ""

    one.remember(VERSION_A)

    assert "older rows than were cut before of 1 Pins" in one.lacks(VERSION_B)


def test_a_candidate_waits_for_the_rows_that_it_could_not_embed_and_the_serving_tower_does_not() -> None:
    """Through the enrichment step: Pin 2 is new to it, Pin 3 it could embed before its last change."""
    store, decoder = MemoryStore(PIN_RECORD), EmbeddedDecoder()
    table, one = gate(a={}, b={})
    table.keep({})
    table.keep({VERSION_A: 4, VERSION_B: 4})
    for offset, poison in ((0, {2}), (10, {2, 3})):
        events = [PinChanged(pin_id=pin, occurred_at_ms=5, status="paused") for pin in (1, 2, 3)]
        towers = (FakePinTower(), FakePinTower(version=VERSION_B, poison=frozenset(poison)))
        done = enrich([events_batch(events, first_offset=offset)], store, towers, lambda: 0.0)
        store.put_many(done.pin_ids, done.records, done.tails)
        for sent in done.rows:
            messages = [
                Message(3, 0, 0, key.encode(), value.encode())
                for key, value in zip(sent.keys, sent.values, strict=True)
            ]
            table.apply(decoder.decode(messages, {VERSION_A: 4, VERSION_B: 4}).batch)
    one.remember(VERSION_A)

    assert one.lacks(VERSION_A) == ""
    assert "no row of 1 of 3 Pins (2); older rows than were cut before of 1 Pins" in one.lacks(VERSION_B)


def test_a_version_that_was_cut_does_not_wait_for_one_that_never_was() -> None:
    _, one = gate(a={1: 5}, b={2: 5})
    assert one.lacks(VERSION_A) and one.lacks(VERSION_B)

    one.remember(VERSION_A)

    assert one.lacks(VERSION_A) == "" and one.lacks(VERSION_B)


def test_a_version_that_left_and_came_back_has_no_cut_to_be_compared_with() -> None:
    _, one = gate(a={1: 5}, b={1: 2})
    one.remember(VERSION_A)
    assert one.lacks(VERSION_B)

    one.keep([VERSION_B])

    assert one.lacks(VERSION_B) == ""


def test_a_tower_that_is_taken_up_is_compared_with_what_the_others_have_by_then() -> None:
    table, one = gate(a={1: 5}, b={1: 5})
    one.remember(VERSION_A)
    table.fold(VERSION_A, rows(VERSION_A, {1: 9}))

    one.take_stock()

    assert "older rows than were cut before of 1 Pins" in one.lacks(VERSION_B)


def test_shares_are_told_by_the_partition_of_each_pin() -> None:
    _, one = gate(a=dict.fromkeys(range(200), 1), b=dict.fromkeys(range(0, 200, 2), 1))

    shares = one.shares(VERSION_B, VERSION_A, 4)

    pins = np.arange(200)
    for number, share in shares.items():
        on_it = pins[partitions_of(pins, 4) == number]
        assert share == float((on_it % 2 == 0).mean())
    assert sorted(shares) == [0, 1, 2, 3]


def test_of_equal_revisions_the_folded_row_stays_whichever_came_first() -> None:
    table = EmbeddingTable()
    table.keep({VERSION_A: 2})
    for mark in (1.0, 2.0):
        table.fold(VERSION_A, rows(VERSION_A, {1: 5}, mark))
        table.mark_cut(VERSION_A)
    assert table.vectors(VERSION_A)[0, 0] == 2.0

    table.fold(VERSION_A, rows(VERSION_A, {1: 4}, 3.0))

    assert table.vectors(VERSION_A)[0, 0] == 2.0
    assert not table.changed(VERSION_A)
    table.fold(VERSION_A, rows(VERSION_A, {1: 5}, 4.0))
    assert table.changed(VERSION_A)
