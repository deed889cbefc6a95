"""Streaming and batch are one thing: the worker's rows against an embedding of the final states at once."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer

from features.definitions import registry
from features.pin_changes import changes_from_frame, fold
from features.pin_state import PIN_RECORD, Records, empty_records
from features.store import MemoryStore
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.predictor import PinTower
from models.towers import TowerConfig, fresh_towers
from schemas.batch import BatchDecoder
from schemas.codec import decode, encode
from schemas.embeddings import PinEmbedded
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED
from schemas.vectors import CONTENT_DIMENSION, decode_fp16, encode_fp16
from streams.kafka import KafkaSettings, producer_config
from streams.worker_settings import WorkerSettings
from tests.kafka_fixture import KafkaUnderTest
from tests.schemas.examples import FULL_PIN_CHANGED
from tests.streams.enrichment_oracle import read_all
from tests.streams.running_worker import RunningWorker

EVENTS, PINS, SEED = 1_000, 100, 9
MIN_COSINE = 0.9999

Changed = PinChanged | PinAggregated


def _tower(root: Path) -> PinTower:
    """A tower of the real size with random weights."""
    model = fresh_towers(registry(), TowerConfig(id_scale=0.02, table_scale=0.3), SEED)
    notes = CheckpointNotes(registry().content_hash, trained_from_ms=0, trained_until_ms=0, seed=SEED)
    return PinTower.load(root, save_checkpoint(root, model, notes).tower_version, registry())


def _events(rng: random.Random) -> list[Changed]:
    """Partial updates of any of the fields, and now and then aggregates."""
    made: list[Changed] = []
    for number in range(EVENTS):
        pin, occurred_at_ms = rng.randrange(PINS), 1_500_000_000_000 + number
        if rng.random() < 0.2:
            visits = sorted(rng.randrange(50) for _ in range(4))
            made.append(PinAggregated(pin_id=pin, occurred_at_ms=occurred_at_ms, offsite_visits=visits))
            continue
        content = encode_fp16([rng.gauss(0, 1) for _ in range(CONTENT_DIMENSION)])
        fields = FULL_PIN_CHANGED | {
            "title": f"Crème {rng.randrange(99)} «{rng.randrange(99)}»",
            "brand": f"brand {rng.randrange(9)}",
            "category_l3": f"category {rng.randrange(30)}",
            "price_micros": rng.randrange(10**8),
            "content_embedding": content,
        }
        chosen = {name: value for name, value in fields.items() if rng.random() < 0.3}
        made.append(PinChanged(**(chosen | {"pin_id": pin, "occurred_at_ms": occurred_at_ms})))
    return made


def _publish(settings: KafkaSettings, events: list[Changed]) -> None:
    producer = Producer(producer_config(settings))
    for event in events:
        producer.produce(event.type_name, encode(event), key=b"%d" % event.pin_id)
    assert producer.flush(30) == 0


def _streamed(settings: KafkaSettings, tower: PinTower, events: list[Changed]) -> dict[int, PinEmbedded]:
    """The newest row of each Pin, by a worker with small batches and a broker between."""
    batches = WorkerSettings(poll_seconds=0.02, batch_events=37)
    worker = RunningWorker(settings, MemoryStore(PIN_RECORD), [tower], batches)
    for topic in (PIN_CHANGED.name, PIN_AGGREGATED.name):
        count = sum(event.type_name == topic for event in events)
        worker.wait("events_total", count, topic=topic, result="applied")
    worker.stop()
    newest: dict[int, PinEmbedded] = {}
    for message in read_all(settings, PIN_EMBEDDED.name):
        row = decode(PinEmbedded, message.value())
        if row.pin_id not in newest or row.revision > newest[row.pin_id].revision:
            newest[row.pin_id] = row
    return newest


def _final_states(events: list[Changed]) -> Records:
    """Each Pin's fields merged in plain Python, newest last, and folded as one event a source."""
    pins = sorted({event.pin_id for event in events})
    records, titles = empty_records(np.array(pins, np.int64)), [b'""'] * len(pins)
    for model, source in ((PinChanged, "changed_offset"), (PinAggregated, "aggregated_offset")):
        merged: dict[int, dict[str, Any]] = {}
        for event in events:
            if isinstance(event, model):
                merged.setdefault(event.pin_id, {}).update(event.model_dump(exclude_none=True))
        values = [encode(model.model_validate(fields)) for fields in merged.values()]
        changes = changes_from_frame(BatchDecoder(model).decode(values), source)
        slots = np.searchsorted(pins, changes.pin_id).astype(np.intp)
        fold(
            records, titles, slots, changes, np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
        )
    return records


def _cosines(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: npt.NDArray[np.float32] = (one * other).sum(axis=1) / lengths
    return cosines


def test_the_workers_rows_are_a_batch_embedding_of_the_final_states(
    empty_broker: KafkaUnderTest, tmp_path: Path
) -> None:
    tower, events = _tower(tmp_path), _events(random.Random(SEED))
    states = _final_states(events)
    settings = empty_broker.settings("differential")
    _publish(settings, events)
    streamed = _streamed(settings, tower, events)
    at_once = tower.embed(states)
    assert sorted(streamed) == states["pin_id"].tolist()
    rows = [streamed[pin] for pin in states["pin_id"].tolist()]
    assert {row.tower_version for row in rows} == {tower.version}
    vectors = np.array([decode_fp16(row.vector) for row in rows], np.float32)
    assert _cosines(vectors, at_once.vectors).min() >= MIN_COSINE
    # The test can fail: other Pins' vectors are far away.
    assert np.median(_cosines(np.roll(vectors, 1, axis=0), at_once.vectors)) < 0.99
    assert [row.input_mask for row in rows] == at_once.input_mask.tolist()
    assert [row.price_micros for row in rows] == states["price_micros"].tolist()
