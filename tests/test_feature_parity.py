"""The golden rule of features: training, enrichment and serving compute bit-equal values.

The three paths start from the same events and end at the registry's transforms. Training folds frames;
enrichment decodes JSON, folds through RocksDB and restarts in between; serving reads users from the
online store one at a time. `tests/features/golden.json` pins what the values are.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datasets.training_rows import PinCategories, PinStates, sessions, users_before
from features.definitions import registry
from features.pin_state import AGGREGATED, CHANGED, PIN_RECORD
from features.registry import Array, Entity
from features.registry import Path as FeaturePath
from features.store import RocksStore
from features.user_state import USER_RECORD, contexts, empty_users
from schemas.batch import arrow_schema
from schemas.events import AGE_BANDS, PinAggregated, PinChanged
from schemas.ranking import RankRequest
from serving.user_reader import UserReader
from streams.enrichment import enrich
from streams.replay import encode_events
from streams.sources import SourceBatch, enrichment_sources

PINS = np.arange(1, 41, dtype=np.int64) * 7919
START_MS = 1_483_228_800_000


def _changed(generator: random.Random, at_ms: int) -> dict[str, Any]:
    """A partial update that sets about a third of the fields."""
    every: dict[str, Any] = {
        "title": generator.choice(["Frozen peas 1 KG", "ÉCLAIR au café", "ice", ""]),
        "category_l1": generator.choice(["GROCERY", "DRUG GM"]),
        "category_l2": generator.choice(["FROZEN", "BAKERY"]),
        "category_l3": generator.choice(["PEAS", "BREAD:RYE", "ÇA"]),
        "brand": generator.choice(["National", "Private"]),
        "advertiser_id": generator.randrange(6_000),
        "price_micros": generator.randrange(10**8),
        "content_embedding": [generator.uniform(-1, 1) for _ in range(48)],
        "display_stores": [generator.randrange(115) for _ in range(10)],
        "mailer_stores": [generator.randrange(115) for _ in range(11)],
        "coupons": [generator.randrange(4) for _ in range(3)],
        "interest_targeting": generator.random() < 0.5,
        "auto_targeting": generator.random() < 0.5,
        "status": generator.choice(["active", "paused"]),
        "target_ages": generator.sample(AGE_BANDS, generator.randrange(3)),
        "bid_micros": generator.randrange(10**6),
    }
    chosen = {name: value for name, value in every.items() if generator.random() < 0.35}
    event = PinChanged(pin_id=int(generator.choice(PINS)), occurred_at_ms=at_ms, **chosen)
    return event.model_dump()


def _aggregated(generator: random.Random, at_ms: int) -> dict[str, Any]:
    visits = sorted(generator.randrange(500) for _ in range(4))
    return PinAggregated(
        pin_id=int(generator.choice(PINS)), occurred_at_ms=at_ms, offsite_visits=visits
    ).model_dump()


def _frames() -> list[tuple[str, str, pl.DataFrame]]:
    """(topic, state field, events) in the order in which they happened."""
    generator = random.Random(20261120)
    frames = []
    for step in range(6):
        at_ms = START_MS + step * 1000
        changed = pl.from_dicts(
            [_changed(generator, at_ms) for _ in range(120)], schema=dict(pl.Schema(arrow_schema(PinChanged)))
        )
        aggregated = pl.from_dicts(
            [_aggregated(generator, at_ms) for _ in range(30)],
            schema=dict(pl.Schema(arrow_schema(PinAggregated))),
        )
        frames += [
            (PinChanged.type_name, CHANGED, changed),
            (PinAggregated.type_name, AGGREGATED, aggregated),
        ]
    return frames


def _pin_values(records: npt.NDArray[Any]) -> dict[str, Array]:
    names = [spec.name for spec in registry().on_path(FeaturePath.L1_EMBEDDING, Entity.PIN)]
    return registry().compute(names, records)


def _assert_bit_equal(left: dict[str, Array], right: dict[str, Array]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert values.dtype == right[name].dtype, name
        assert values.tobytes() == right[name].tobytes(), name


def test_training_and_enrichment_compute_bit_equal_pin_features(tmp_path: Path) -> None:
    training = PinStates(PINS)
    for _, field, frame in _frames():
        training.apply(frame, field)

    sources = enrichment_sources()
    offset = 0
    for topic, _, frame in _frames():
        keys, values = encode_events(frame)
        for start in range(0, len(values), 37):
            part = slice(start, start + 37)
            size = len(values[part])
            offsets = np.arange(offset, offset + size, dtype=np.int64)
            offset += size
            zeros = np.zeros(size, np.int64)
            batch = SourceBatch(
                sources[topic], keys[part], values[part], zeros, offsets, offsets, lambda row: None
            )
            # A new store object for each batch: what counts has been on disk in between.
            with RocksStore(tmp_path, PIN_RECORD) as store:
                done = enrich([batch], store, [], lambda: 0.0)
                assert done.letters == []
                store.put_many(done.pin_ids, done.records, done.tails)
    with RocksStore(tmp_path, PIN_RECORD) as store:
        enriched, found, _ = store.get_many(PINS)

    assert found.sum() == len(PINS)
    expected = _pin_values(training.records)
    assert sum(bool(np.any(values)) for values in expected.values()) == len(expected)
    _assert_bit_equal(expected, _pin_values(enriched))


def test_one_pin_at_a_time_gives_the_bits_of_the_whole_batch() -> None:
    training = PinStates(PINS)
    for _, field, frame in _frames():
        training.apply(frame, field)

    together = _pin_values(training.records)
    for row in range(len(PINS)):
        alone = _pin_values(training.records[row : row + 1])
        _assert_bit_equal({name: values[row : row + 1] for name, values in together.items()}, alone)


def test_training_and_serving_compute_bit_equal_user_features(tmp_path: Path) -> None:
    generator = random.Random(7)
    rows = [
        {
            "occurred_at_ms": START_MS + generator.randrange(10**9),
            "user_id": generator.randrange(1, 9),
            "pin_id": int(generator.choice(PINS)),
            "week": 1,
        }
        for _ in range(700)
    ]
    ids = np.arange(1, 9, dtype=np.int64)
    visits = sessions(pl.from_dicts(rows), ids, 1)
    categories = PinCategories(PINS, (PINS % 1000 + 1).astype(np.uint32))
    users = empty_users(ids)
    last_of_each = np.array([np.flatnonzero(visits.user == user).max() for user in range(len(ids))])
    order = np.argsort(last_of_each)
    before_last = users_before(empty_users(ids), visits, categories, np.sort(last_of_each))
    at_ms = visits.occurred_at_ms[np.sort(last_of_each)]

    # Serving's store as of the same moment: everything but each user's last session has happened.
    kept = np.setdiff1d(np.arange(len(visits)), last_of_each)
    sizes = visits.bounds[kept + 1] - visits.bounds[kept]
    places = np.concatenate([np.arange(visits.bounds[one], visits.bounds[one + 1]) for one in kept])
    earlier = type(visits)(
        user=visits.user[kept],
        occurred_at_ms=visits.occurred_at_ms[kept],
        week=visits.week[kept],
        bounds=np.concatenate([[0], np.cumsum(sizes)]),
        pins=visits.pins[places],
    )
    users_before(users, earlier, categories, np.empty(0, np.intp))
    with RocksStore(tmp_path, USER_RECORD) as store:
        store.put_many(ids, users, [b""] * len(ids))
    with RocksStore(tmp_path, USER_RECORD, read_only=True) as store:
        reader = UserReader(store)
        served = [
            reader.read(RankRequest(user_id=int(ids[user])), int(at_ms[row]))
            for row, user in enumerate(order)
        ]

    user_names = [spec.name for spec in registry().specs if spec.entity is Entity.USER]
    context_names = [spec.name for spec in registry().specs if spec.entity is Entity.CONTEXT]
    trained = registry().compute(user_names, before_last) | registry().compute(
        context_names, contexts(before_last, at_ms)
    )
    for row, asker in enumerate(served):
        alone = registry().compute(user_names, asker.users) | registry().compute(
            context_names, asker.contexts
        )
        _assert_bit_equal({name: values[row : row + 1] for name, values in trained.items()}, alone)
