"""Each stage of the worker alone, in this process, on the benchmark's own events: events per second."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer

from benchmarks.enrich_workload import Events, poisoned
from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import RocksStore
from models.predictor import PinTower
from schemas.topics import PIN_CHANGED
from streams.decoding import DecodedBatch, decode_source
from streams.embedded_rows import EmbeddedRows, embedded_rows
from streams.kafka import KafkaSettings, consumer_config
from streams.outlet import Outlet
from streams.pin_fold import FoldedPins, fold_pins
from streams.positions import position_meta
from streams.sources import SourceBatch, enrichment_sources
from streams.state_cache import CachedStore
from streams.tower_output import TowerOutput, embed_rows

BATCH = 8192
BATCHES = 12
_CONSUME_SECONDS = 120


def _batches(made: Events) -> list[SourceBatch]:
    source = enrichment_sources()[PIN_CHANGED.name]
    batches = []
    for start in range(0, min(len(made), BATCH * BATCHES), BATCH):
        rows = made[start : start + BATCH]
        numbers = np.arange(start, start + len(rows))
        keys, values = [key for key, _ in rows], [value for _, value in rows]
        batches.append(SourceBatch(source, keys, values, numbers % 32, numbers, numbers, lambda row: None))
    return batches


def _rate(events: int, work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return events / (time.perf_counter() - start)


def stages(settings: KafkaSettings, made: Events, data: Path, version: str) -> dict[str, float]:
    """Consume, decode, state (read, fold, write), tower and produce (rows and their acknowledgement)."""
    batches = _batches(made)
    events = sum(map(len, batches))
    tower = PinTower.load(data / "towers", version, registry())
    decoded: list[DecodedBatch] = []
    folded: list[FoldedPins] = []
    rows: list[EmbeddedRows] = []
    rates = {"consume": _consume(settings, len(made))}
    rates["decode"] = _rate(events, lambda: decoded.extend(map(decode_source, batches)))
    store = CachedStore(RocksStore(data / "stages", PIN_RECORD))
    rates["state"] = _rate(events, lambda: folded.extend(_fold(store, batches, decoded)))
    store.close()
    tower.embed(folded[0].records)
    outputs: list[TowerOutput] = []
    rates["tower"] = _rate(events, lambda: outputs.extend(embed_rows(tower, one.records) for one in folded))

    def encode() -> None:
        for one, output in zip(folded, outputs, strict=True):
            rows.append(embedded_rows(version, one.records, one.tails, output.vectors, output.input_mask))

    rates["encode"] = _rate(events, encode)
    outlet = Outlet(settings, "stages")
    # A new idempotent producer first asks for its id, which takes up to a second: not what is measured.
    outlet.produce_rows(rows[0])
    outlet.wait()

    def produce() -> None:
        for one in rows:
            outlet.produce_rows(one)
        outlet.wait()

    rates["produce"] = _rate(events, produce)
    return rates


def _fold(store: CachedStore, batches: list[SourceBatch], decoded: list[DecodedBatch]) -> list[FoldedPins]:
    done = []
    for batch, one in zip(batches, decoded, strict=True):
        folded = fold_pins(store, [(batch, one)])
        meta = position_meta({(batch.source.topic, 0): int(batch.offsets[-1])})
        store.put_many(folded.pin_ids, folded.records, folded.tails, meta)
        done.append(folded)
    return done


def _consume(settings: KafkaSettings, count: int) -> float:
    """Fetch every event and take out its columns, from the first batch on."""
    consumer = Consumer(consumer_config(settings, "stages"))
    consumer.subscribe([PIN_CHANGED.name])
    fetched, start, first = 0, 0.0, 0
    asked = time.monotonic()
    while fetched < count:
        if time.monotonic() - asked > _CONSUME_SECONDS:
            raise RuntimeError(f"{fetched} of {count} events came in {_CONSUME_SECONDS} s")
        messages = consumer.consume(BATCH, 0.5)
        [(one.key(), one.value(), one.partition(), one.offset(), one.timestamp()) for one in messages]
        fetched += len(messages)
        if messages and not start:
            start, first = time.perf_counter(), fetched
    rate = (fetched - first) / (time.perf_counter() - start)
    consumer.close()
    return rate


def isolation(made: Events) -> dict[str, float]:
    """Milliseconds to decode a batch that is clean, that holds one pill, and in which 1 % are pills."""
    made = made[:BATCH]
    cases = {
        "clean_ms": made,
        "one_pill_ms": poisoned(made, len(made), len(made) // 2),
        "one_percent_ms": poisoned(made, 100),
    }
    return {name: _milliseconds(_batches(case)[0]) for name, case in cases.items()}


def _milliseconds(batch: SourceBatch) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        decode_source(batch)
        times.append(time.perf_counter() - start)
    return round(min(times) * 1000, 1)
