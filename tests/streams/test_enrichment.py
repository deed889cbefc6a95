import itertools

import numpy as np
import pytest

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore, RecordStore
from features.tier_slices import in_tier
from schemas.codec import decode
from schemas.embeddings import PinEmbedded, embedded_key
from schemas.errors import DeadLetterReason, Refused, RetryableError
from schemas.events import PinAggregated, PinChanged
from schemas.tiers import Tier, Tiers
from schemas.topics import PIN_AGGREGATED
from schemas.vectors import decode_fp16
from streams.embedded_tiers import EVERY_PIN, EmbeddedTiers
from streams.enrichment import Enriched, enrich
from streams.sources import SourceBatch
from streams.tower_output import BROKEN_TOWER_PINS, PinEmbedder
from tests.fakes import FakeEmbedded, FakePinTower, FullPinTower
from tests.schemas.examples import FULL_PIN_CHANGED, VERSION_A, VERSION_B, pin_changed
from tests.streams.batches import events_batch, keyed, source_batch
from tests.streams.mutated_events import mutated_events


def _step(
    store: RecordStore,
    *batches: SourceBatch,
    towers: tuple[PinEmbedder, ...] = (FakePinTower(),),
    tiers: EmbeddedTiers = EVERY_PIN,
) -> Enriched:
    """One step and the write that the worker makes of it."""
    ticks = itertools.count()
    enriched = enrich(batches, store, towers, lambda: float(next(ticks)), tiers=tiers)
    store.put_many(enriched.pin_ids, enriched.records, enriched.tails)
    return enriched


def _rows(enriched: Enriched, tower: int = 0) -> list[PinEmbedded]:
    return [decode(PinEmbedded, value.encode()) for value in enriched.rows[tower].values]


def test_a_full_event_comes_out_as_a_full_row() -> None:
    store = MemoryStore(PIN_RECORD)
    enriched = _step(store, events_batch([pin_changed(**FULL_PIN_CHANGED)], first_offset=40))
    (row,) = _rows(enriched)
    assert row.model_dump(exclude={"vector"}) == {
        "pin_id": 7,
        "tower_version": VERSION_A,
        "input_mask": 3,
        "changed_offset": 40,
        "aggregated_offset": -1,
        "occurred_at_ms": 1_500_000_000_000,
        "ingested_at_ms": 1040,
        "status": "active",
        "title": "Crème brûlée, 2x100 g",
        "advertiser_id": 69,
        "price_micros": 2_500_000,
        "bid_micros": 120_000,
        "daily_budget_micros": 50_000_000,
        "target_ages": 0b100001,
        "starts_at_ms": 1_400_000_000_000,
        "ends_at_ms": 1_600_000_000_000,
    }
    expected = FakePinTower().embed(enriched.records).vectors[0].astype(np.float16)
    assert decode_fp16(row.vector) == tuple(expected.tolist())
    assert enriched.rows[0].keys == [embedded_key(7, VERSION_A).decode()]
    assert enriched.rows[0].partitions == [3]


def test_a_pin_has_one_row_per_batch_and_tower_however_many_events_it_had() -> None:
    events = [PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=pin) for pin in (1, 2, 1, 1, 2)]
    towers = (FakePinTower(), FakePinTower(version=VERSION_B))
    enriched = _step(MemoryStore(PIN_RECORD), events_batch(events), towers=towers)
    assert [len(rows) for rows in enriched.rows] == [2, 2]
    assert [(row.pin_id, row.changed_offset) for row in _rows(enriched)] == [(1, 3), (2, 4)]
    assert {row.tower_version for row in _rows(enriched, 1)} == {VERSION_B}


def test_partial_updates_of_both_sources_merge_over_several_batches() -> None:
    store = MemoryStore(PIN_RECORD)
    visits = PinAggregated(pin_id=1, occurred_at_ms=9, offsite_visits=[1, 2, 3, 4])
    _step(store, events_batch([PinChanged(pin_id=1, occurred_at_ms=5, price_micros=10, title="Bean")]))
    enriched = _step(
        store,
        events_batch([PinChanged(pin_id=1, occurred_at_ms=7, bid_micros=20)], first_offset=1),
        events_batch([visits], topic=PIN_AGGREGATED.name, first_offset=8),
    )
    (row,) = _rows(enriched)
    assert (row.price_micros, row.bid_micros, row.title, row.occurred_at_ms) == (10, 20, "Bean", 9)
    assert (row.changed_offset, row.aggregated_offset) == (1, 8)
    assert enriched.records["offsite_visits"].tolist() == [[1, 2, 3, 4]]


def test_redelivered_events_change_nothing_and_their_rows_come_again() -> None:
    store = MemoryStore(PIN_RECORD)
    batch = events_batch([PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=pin) for pin in (1, 2)])
    first = _step(store, batch)
    _step(store, events_batch([PinChanged(pin_id=1, occurred_at_ms=6, price_micros=77)], first_offset=2))
    again = _step(store, batch)
    assert first.redelivered == {"pin.changed.v1": 0}
    assert again.redelivered == {"pin.changed.v1": 2}
    assert [(row.pin_id, row.price_micros, row.changed_offset) for row in _rows(again)] == [
        (1, 77, 2),
        (2, 2, 1),
    ]


def test_titles_of_any_script_and_punctuation_survive() -> None:
    titles = ['say "hi" \\ back', "línea\nnueva\t", "日本語 🎉", "", "{}"]
    events = [PinChanged(pin_id=pin, occurred_at_ms=5, title=title) for pin, title in enumerate(titles)]
    enriched = _step(MemoryStore(PIN_RECORD), events_batch([*events, PinChanged(pin_id=9, occurred_at_ms=5)]))
    assert [row.title for row in _rows(enriched)] == [*titles, ""]


def test_a_client_timestamp_out_of_range_still_gives_a_row_that_decodes() -> None:
    keys, values = keyed([PinChanged(pin_id=1, occurred_at_ms=5), PinChanged(pin_id=2, occurred_at_ms=5)])
    plain = source_batch(keys, values)
    batch = SourceBatch(
        plain.source, keys, values, plain.partitions, plain.offsets, np.array([-1, 2**62]), plain.event_type
    )
    assert [row.ingested_at_ms for row in _rows(_step(MemoryStore(PIN_RECORD), batch))] == [
        0,
        4_102_444_799_999,
    ]


def test_a_pin_that_the_tower_cannot_embed_is_dead_lettered_and_keeps_its_state() -> None:
    store = MemoryStore(PIN_RECORD)
    _step(store, events_batch([PinChanged(pin_id=2, occurred_at_ms=5, price_micros=1)]))
    events = [PinChanged(pin_id=pin, occurred_at_ms=6, price_micros=50) for pin in (1, 2, 3, 2)]
    towers = (FakePinTower(poison=frozenset({2})), FakePinTower(version=VERSION_B))
    enriched = _step(store, events_batch(events, first_offset=1), towers=towers)
    assert [(one.row, one.reason, one.model_version) for one in enriched.letters] == [
        (1, DeadLetterReason.MODEL_ERROR, VERSION_A),
        (3, DeadLetterReason.MODEL_ERROR, VERSION_A),
    ]
    assert [[row.pin_id for row in _rows(enriched, tower)] for tower in (0, 1)] == [[1, 3], [1, 3]]
    records, _, _ = store.get_many(np.array([2]))
    assert (records["price_micros"][0], records["changed_offset"][0]) == (1, 0)


class Infinite(FakePinTower):
    """Gives infinity for Pin 2."""

    def embed(self, pins: Records, /) -> FakeEmbedded:
        embedded = super().embed(pins)
        embedded.vectors[pins["pin_id"] == 2] = np.inf
        return embedded


class Crashing(FakePinTower):
    """Raises what torch raises."""

    def embed(self, pins: Records, /) -> FakeEmbedded:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_a_vector_that_is_not_finite_is_named_as_such_and_told_once_for_two_towers() -> None:
    batch = events_batch([PinChanged(pin_id=pin, occurred_at_ms=5) for pin in (1, 2)])
    towers = (Infinite(), FakePinTower(version=VERSION_B, poison=frozenset({2})))
    enriched = _step(MemoryStore(PIN_RECORD), batch, towers=towers)

    assert [(one.row, one.reason, one.model_version) for one in enriched.letters] == [
        (1, DeadLetterReason.NAN_EMBEDDING, towers[0].version)
    ]


def test_a_device_without_memory_is_no_fault_of_the_pins() -> None:
    """Of the serving tower the whole batch is tried again; it does not wait for another one."""
    batch = events_batch([PinChanged(pin_id=pin, occurred_at_ms=5) for pin in (1, 2)])
    with pytest.raises(RetryableError, match="no memory"):
        _step(MemoryStore(PIN_RECORD), batch, towers=(FullPinTower(times=[9]),))
    candidate = FullPinTower(version=VERSION_B, times=[9])
    enriched = _step(MemoryStore(PIN_RECORD), batch, towers=(FakePinTower(), candidate))
    assert enriched.letters == []
    assert [len(rows) for rows in enriched.rows] == [2, 0]
    assert [one.version for one in enriched.left_out] == [VERSION_B]


def test_a_tower_that_fails_on_everything_stops_the_step() -> None:
    pins = range(BROKEN_TOWER_PINS)
    batch = events_batch([PinChanged(pin_id=pin, occurred_at_ms=5) for pin in pins])
    with pytest.raises(Refused, match="tower_broken"):
        _step(MemoryStore(PIN_RECORD), batch, towers=(FakePinTower(poison=frozenset(pins)),))


@pytest.mark.parametrize(
    "candidate",
    [
        FakePinTower(version=VERSION_B, poison=frozenset({2})),
        FakePinTower(version=VERSION_B, poison=frozenset(range(300))),
        FakePinTower(version=VERSION_B, poison=frozenset(range(0, 300, 7))),
        Infinite(version=VERSION_B),
        Crashing(version=VERSION_B),
    ],
)
def test_no_update_of_the_serving_tower_is_lost_or_changed_because_of_a_candidate(
    candidate: FakePinTower,
) -> None:
    alone, beside = MemoryStore(PIN_RECORD), MemoryStore(PIN_RECORD)
    serving = FakePinTower(poison=frozenset({5}))
    for start in (0, 300):
        events = [
            PinChanged(pin_id=pin, occurred_at_ms=start + 5, price_micros=start, status="paused")
            for pin in range(300)
        ]
        batch = events_batch(events, first_offset=start)
        expected = _step(alone, batch, towers=(serving,))
        enriched = _step(beside, batch, towers=(serving, candidate))
        assert enriched.rows[0] == expected.rows[0]
        assert enriched.letters == expected.letters
        assert [one.row for one in enriched.letters] == [5]
        # A row of the candidate, or said to be lacking: each Pin that was not turned down is one of them.
        (left,) = enriched.left_out
        has = {row.pin_id for row in _rows(enriched, 1)}
        assert has.isdisjoint(left.pin_ids.tolist())
        assert has | set(left.pin_ids.tolist()) == set(range(300)) - {5}
        assert (left.place, left.version, left.partitions) == (1, VERSION_B, frozenset({3}))
    everything = np.arange(300)
    for mine, theirs in zip(alone.get_many(everything), beside.get_many(everything), strict=True):
        assert np.array_equal(np.asarray(mine), np.asarray(theirs))


def test_of_a_candidate_that_fails_on_one_pin_no_other_row_is_lacking() -> None:
    events = [PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=pin) for pin in range(300)]
    towers = (FakePinTower(), FakePinTower(version=VERSION_B, poison=frozenset({2, 211})))
    enriched = _step(MemoryStore(PIN_RECORD), events_batch(events), towers=towers)
    assert enriched.left_out[0].pin_ids.tolist() == [2, 211]
    assert [row.pin_id for row in _rows(enriched, 1)] == [pin for pin in range(300) if pin not in {2, 211}]
    rows = [decode_fp16(row.vector) for row in _rows(enriched, 1)]
    expected = towers[1].embed(enriched.records[np.isin(enriched.pin_ids, [2, 211], invert=True)]).vectors
    assert rows == [tuple(vector.tolist()) for vector in expected.astype(np.float16)]


def test_a_broken_candidate_costs_a_bounded_number_of_forwards() -> None:
    class Counting(FakePinTower):
        def embed(self, pins: Records, /) -> FakeEmbedded:
            forwards.append(len(pins))
            raise ValueError("broken")

    forwards: list[int] = []
    events = [PinChanged(pin_id=pin, occurred_at_ms=5) for pin in range(4_096)]
    towers = (FakePinTower(), Counting(version=VERSION_B))
    enriched = _step(MemoryStore(PIN_RECORD), events_batch(events), towers=towers)
    assert len(enriched.left_out[0].pin_ids) == 4_096
    assert len(forwards) < 160


def test_without_a_tower_states_are_folded_and_no_rows_come() -> None:
    store = MemoryStore(PIN_RECORD)
    enriched = _step(store, events_batch([PinChanged(pin_id=1, occurred_at_ms=5)]), towers=())
    assert enriched.rows == []
    assert store.get_many(np.array([1]))[1].tolist() == [True]


def test_stages_are_timed_with_the_clock_that_is_passed() -> None:
    enriched = _step(MemoryStore(PIN_RECORD), events_batch([PinChanged(pin_id=1, occurred_at_ms=5)]))
    assert enriched.stage_seconds == {"decode": 1.0, "state": 1.0, "tower": 1.0, "encode": 1.0}


def test_every_mutated_event_is_a_letter_or_in_a_row_that_decodes() -> None:
    store, rows, letters = MemoryStore(PIN_RECORD), 0, 0
    made = list(mutated_events(2_000, seed=3))
    for start in range(0, len(made), 500):
        part = made[start : start + 500]
        batch = source_batch([key for key, _ in part], [value for _, value in part], first_offset=start)
        enriched = _step(store, batch)
        bad = {one.row for one in enriched.letters}
        touched = {int(key) for row, (key, _) in enumerate(part) if row not in bad}
        assert {row.pin_id for row in _rows(enriched)} == touched
        rows, letters = rows + len(touched), letters + len(bad)
    assert rows > 500
    assert letters > 500


HOT = Tier(name="hot", end_bucket=50)
HALF = EmbeddedTiers(Tiers(tiers=[HOT, Tier(name="slow", policy="batch", first_bucket=50)]))
PINS = np.arange(20)
HOT_PINS = PINS[in_tier(PINS, HOT)].tolist()


def test_a_pin_of_a_batch_tier_gets_a_state_and_no_row() -> None:
    store, towers = MemoryStore(PIN_RECORD), (FakePinTower(), FakePinTower(version=VERSION_B))
    events = [PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=pin, title=str(pin)) for pin in range(20)]
    enriched = _step(store, events_batch(events), towers=towers, tiers=HALF)
    assert 0 < len(HOT_PINS) < 20
    for tower in (0, 1):
        assert [(row.pin_id, row.price_micros, row.title) for row in _rows(enriched, tower)] == [
            (pin, pin, str(pin)) for pin in HOT_PINS
        ]
    assert enriched.embedded_ids.tolist() == HOT_PINS
    records, found, _ = store.get_many(PINS)
    assert found.all()
    assert records["price_micros"].tolist() == PINS.tolist()
    assert enriched.redelivered == {"pin.changed.v1": 0}


def test_a_tower_turns_down_realtime_pins_alone() -> None:
    store = MemoryStore(PIN_RECORD)
    cold = sorted(set(range(20)) - set(HOT_PINS))
    poison = frozenset({HOT_PINS[1], cold[0]})
    events = [PinChanged(pin_id=pin, occurred_at_ms=5) for pin in range(20)]
    towers = (FakePinTower(poison=poison), FakePinTower(version=VERSION_B))
    enriched = _step(store, events_batch(events), towers=towers, tiers=HALF)
    assert [(letter.row, letter.reason) for letter in enriched.letters] == [
        (HOT_PINS[1], DeadLetterReason.MODEL_ERROR)
    ]
    _, found, _ = store.get_many(PINS)
    assert np.flatnonzero(~found).tolist() == [HOT_PINS[1]]
    left = [pin for pin in HOT_PINS if pin != HOT_PINS[1]]
    assert [[row.pin_id for row in _rows(enriched, tower)] for tower in (0, 1)] == [left, left]
    expected = FakePinTower(version=VERSION_B).embed(store.get_many(np.array(left))[0]).vectors
    rows = [decode_fp16(row.vector) for row in _rows(enriched, 1)]
    assert rows == [tuple(vector.tolist()) for vector in expected.astype(np.float16)]


def test_a_batch_of_nothing_but_batch_pins_has_no_rows() -> None:
    cold = sorted(set(range(20)) - set(HOT_PINS))
    events = [PinChanged(pin_id=pin, occurred_at_ms=5) for pin in cold]
    enriched = _step(MemoryStore(PIN_RECORD), events_batch(events), tiers=HALF)
    assert enriched.pin_ids.tolist() == cold
    assert [len(rows) for rows in enriched.rows] == [0]
