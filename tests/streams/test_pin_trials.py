import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Producer

from features.pin_state import PIN_RECORD, Records
from features.store import MemoryStore
from schemas.codec import decode
from schemas.embeddings import PinEmbedded
from schemas.errors import DeadLetterReason
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED
from streams import pin_trials
from streams.catch_up import fold_known
from streams.embedded_broker import EmbeddedBroker
from streams.enrichment import Enriched, enrich
from streams.kafka import KafkaSettings, producer_config
from streams.sources import Ints, SourceBatch
from streams.tower_output import embed_rows
from tests.fakes import FakeEmbedded, FakePinTower
from tests.schemas.examples import VERSION_B
from tests.streams.batches import events_batch
from tests.streams.enrichment_oracle import read_all
from tests.streams.running_worker import RunningWorker


class _Picky(FakePinTower):
    """Fails on Pins of one price, and on those with an offsite visit."""

    def embed(self, pins: Records, /) -> FakeEmbedded:
        if (pins["price_micros"] == 50).any() or pins["offsite_visits"].any():
            raise ValueError("fifty")
        return super().embed(pins)


def _batch(*changes: dict[str, object], first_offset: int = 0) -> SourceBatch:
    made = [PinChanged.model_validate({"pin_id": 2, "occurred_at_ms": 5} | one) for one in changes]
    return events_batch(made, first_offset=first_offset)


def _step(store: MemoryStore, *batches: SourceBatch) -> Enriched:
    done = enrich(batches, store, [_Picky(), FakePinTower(version=VERSION_B)], lambda: 0.0)
    store.put_many(done.pin_ids, done.records, done.tails)
    return done


def _rows(done: Enriched, tower: int) -> list[tuple[int, int, str, int]]:
    rows = [decode(PinEmbedded, value.encode()) for value in done.rows[tower].values]
    return [(row.pin_id, row.price_micros or 0, row.title or "", row.changed_offset) for row in rows]


EVENTS: tuple[dict[str, object], ...] = ({"price_micros": 1}, {"price_micros": 50}, {"title": "x"})


def _state(store: MemoryStore) -> tuple[int, int, bytes]:
    records, found, tails = store.get_many(np.array([2]))
    assert found.all()
    return int(records["price_micros"][0]), int(records["changed_offset"][0]), tails[0]


def test_of_a_pin_that_fails_only_the_event_that_it_fails_with_is_turned_down() -> None:
    store = MemoryStore(PIN_RECORD)
    other = PinChanged(pin_id=9, occurred_at_ms=5, price_micros=7)
    batch = events_batch(
        [
            *(PinChanged.model_validate({"pin_id": 2, "occurred_at_ms": 5} | one) for one in EVENTS),
            other,
        ]
    )
    done = _step(store, batch)
    (letter,) = done.letters
    assert (letter.row, letter.reason) == (1, DeadLetterReason.MODEL_ERROR)
    assert letter.message == "the tower cannot embed the Pin with this change; its state is without it"
    assert letter.model_version == FakePinTower().version
    for tower in (0, 1):
        assert sorted(_rows(done, tower)) == [(2, 1, "x", 2), (9, 7, "", 3)]
    assert sorted(done.pin_ids.tolist()) == sorted(done.embedded_ids.tolist()) == [2, 9]
    assert _state(store) == (1, 2, b'"x"')


def _fold_silently(store: MemoryStore, *batches: SourceBatch) -> list[int]:
    """As a worker catches up; offsets of the letters that it sends meanwhile."""
    letters: list[int] = []
    for batch in batches:
        folded = fold_known([batch], store, [_Picky()], lambda: 0.0, None)
        store.put_many(folded.pin_ids, folded.records, folded.tails)
        letters += [letter.offset for letter in folded.letters]
    return letters


def test_silent_events_come_to_the_same_state() -> None:
    store = MemoryStore(PIN_RECORD)
    assert _fold_silently(store, _batch(*EVENTS)) == [1]
    assert _state(store) == (1, 2, b'"x"')


MENDED: tuple[dict[str, object], ...] = ({"price_micros": 50, "title": "x"}, {"price_micros": 1})


def test_an_event_that_a_later_one_mends_is_in_the_state_or_in_a_letter_wherever_silent_batches_end() -> None:
    whole, cut = MemoryStore(PIN_RECORD), MemoryStore(PIN_RECORD)
    assert _fold_silently(whole, _batch(*MENDED)) == []
    assert _state(whole) == (1, 1, b'"x"')
    assert _fold_silently(cut, _batch(MENDED[0]), _batch(MENDED[1], first_offset=1)) == [0]
    assert _state(cut) == (1, 1, b"")


@pytest.mark.parametrize("ends", list(itertools.product((False, True), repeat=4)))
def test_no_silent_event_is_passed_over_wherever_batches_end(ends: tuple[bool, ...]) -> None:
    events: list[dict[str, object]] = [
        {"price_micros": 50, "title": "x"},
        {"price_micros": 1},
        {"price_micros": 50, "bid_micros": 7},
        {"daily_budget_micros": 3},
        {"price_micros": 2},
    ]
    bounds = [0, *(place + 1 for place, is_end in enumerate(ends) if is_end), len(events)]
    store = MemoryStore(PIN_RECORD)
    cut = [_batch(*events[first:last], first_offset=first) for first, last in itertools.pairwise(bounds)]
    letters = _fold_silently(store, *cut)
    records, _, tails = store.get_many(np.array([2]))
    in_state = {
        0: tails[0] == b'"x"', 2: records["bid_micros"][0] == 7, 3: records["daily_budget_micros"][0] == 3
    }  # fmt: skip
    assert records["price_micros"].tolist() == [2]
    assert [place for place, is_in in in_state.items() if not is_in and place not in letters] == []


def test_a_silent_event_that_is_no_event_has_its_letter_already() -> None:
    store = MemoryStore(PIN_RECORD)
    bad = replace(_batch(*MENDED), values=[b"{", _batch(MENDED[1]).values[0]])
    assert _fold_silently(store, bad) == []
    assert _state(store) == (1, 1, b"")


def test_both_sources_are_tried_apart() -> None:
    store = MemoryStore(PIN_RECORD)
    visits = PinAggregated(pin_id=2, occurred_at_ms=9, offsite_visits=[1, 2, 3, 4])
    done = _step(store, events_batch([visits], topic=PIN_AGGREGATED.name), _batch(*EVENTS[:1]))
    assert [(one.topic, one.row) for one in done.letters] == [(PIN_AGGREGATED.name, 0)]
    assert _rows(done, 0) == [(2, 1, "", 0)]
    assert done.records["aggregated_offset"].tolist() == [-1]


def test_events_that_the_state_had_come_out_again_beside_one_that_fails() -> None:
    store = MemoryStore(PIN_RECORD)
    first = _step(store, _batch(*EVENTS))
    again = _step(store, _batch(*EVENTS))
    # The event between them is below the state's offset by now: it was told of, and changes nothing.
    assert (again.letters, again.redelivered) == ([], {"pin.changed.v1": 3})
    assert again.rows[0] == first.rows[0]
    one_more = _step(store, _batch({"title": "x"}, {"price_micros": 50}, first_offset=2))
    assert [letter.row for letter in one_more.letters] == [1]
    assert one_more.redelivered == {"pin.changed.v1": 1}
    assert one_more.rows[0] == first.rows[0]


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    forwards: list[int] = []

    def counting(tower: FakePinTower, records: Records) -> object:
        forwards.append(len(records))
        return embed_rows(tower, records)

    monkeypatch.setattr(pin_trials, "embed_rows", counting)
    return forwards


def test_one_bad_event_among_thousands_costs_few_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = _counted(monkeypatch)
    store = MemoryStore(PIN_RECORD)
    changes: list[dict[str, object]] = [{"bid_micros": number} for number in range(4_096)]
    changes[3_000] = {"price_micros": 50}
    done = _step(store, _batch(*changes))
    assert [letter.row for letter in done.letters] == [3_000]
    assert len(forwards) == 25  # all of them, then two halves for each of log2(4096)
    assert done.records["bid_micros"].tolist() == [4_095]


def test_nothing_but_bad_events_costs_a_bounded_number_of_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin_trials, "FORWARDS", 16)
    forwards = _counted(monkeypatch)
    bad = [
        PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=50) for pin in range(1, 11) for _ in range(30)
    ]
    good = [PinChanged(pin_id=pin, occurred_at_ms=5, price_micros=1) for pin in range(11, 31)]
    done = _step(MemoryStore(PIN_RECORD), events_batch([*bad, *good]))
    assert len(forwards) == 16
    assert sorted(letter.row for letter in done.letters) == list(range(300))
    assert sorted(done.pin_ids.tolist()) == list(range(11, 31))
    assert {letter.message.split("; ")[0] for letter in done.letters} == {
        "the tower cannot embed the Pin with this change",
        "the tower cannot embed the Pin with this and the changes next to it",
    }


class _Dying(MemoryStore):
    """The process ends right after its first write of states."""

    def put_many(
        self, ids: Ints, records: Records, tails: Sequence[bytes], meta: Mapping[str, bytes] | None = None
    ) -> None:
        super().put_many(ids, records, tails, meta)
        if len(ids):
            raise RuntimeError("killed")


def test_a_kill_after_the_states_are_stored_loses_no_letter() -> None:
    with EmbeddedBroker() as broker:
        kafka = KafkaSettings(
            bootstrap_servers=broker.bootstrap_servers, session_timeout_ms=2_000, heartbeat_interval_ms=300
        )
        producer = Producer(producer_config(kafka))
        for value in _batch(*EVENTS).values:
            producer.produce(PIN_CHANGED.name, value, key=b"2")
        assert producer.flush(10) == 0
        store = _Dying(PIN_RECORD)
        with pytest.raises(RuntimeError, match="killed"):
            RunningWorker(kafka, store, [_Picky()]).failed()
        letters = read_all(kafka, PIN_CHANGED.dlq)
    assert _state(store) == (1, 2, b'"x"')
    assert [letter.value() for letter in letters] == [_batch(*EVENTS).values[1]]
