"""A value that no longer holds is not served: from a visit, by days without one, to a Pin's input mask."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features.definitions import registry
from features.pin_state import PIN_RECORD, empty_records
from features.store import MemoryStore
from models.predictor import embed_pins
from models.towers import TowerConfig, fresh_towers
from schemas.times import DAY_MS
from schemas.topics import PIN_AGGREGATED
from streams.enrichment import enrich
from streams.sources import SourceBatch, enrichment_sources
from streams.steps import Output

from .window_events import FIRST_DAY, Log, step_at

_PIN = 1
TOWER = TowerConfig(dimension=16, hidden=32, id_scale=0.02)


def _embedded(store: MemoryStore, outputs: Sequence[Output], offset: int) -> tuple[bool, list[float]]:
    """What the worker makes of the Pin's new counts: whether `offsite_visits` is covered, and its vector."""
    own = [output for output in outputs if output.key == b"%d" % _PIN]
    numbers = np.arange(offset, offset + len(own))
    batch = SourceBatch(
        enrichment_sources()[PIN_AGGREGATED.name],
        [output.key for output in own],
        [output.value for output in own],
        np.zeros(len(own), np.int64),
        numbers,
        numbers,
        lambda row: None,
    )
    done = enrich([batch], store, [], lambda: 0.0)
    store.put_many(done.records["pin_id"], done.records, done.tails)
    model = fresh_towers(registry(), TOWER, seed=0)
    embedded = embed_pins(model, done.records)
    bit = model.inputs.pin_names.index("offsite_visits")
    return bool(embedded.input_mask[0] >> bit & 1), embedded.vectors[0].tolist()


def test_pain_7_counts_expire_as_days_pass_and_the_pin_is_embedded_without_them(tmp_path: Path) -> None:
    log, step, store = Log(), step_at(tmp_path, clock="wall"), MemoryStore(PIN_RECORD)
    assert step.apply([log.add(_PIN, 0)]).outputs == []
    told: list[tuple[bool, list[float]]] = []
    # No event comes after day 0: on these days the visit leaves one window after the other.
    for day in (1, 2, 8, 31, 91):
        outputs: list[Output] = []
        more = True
        while more:
            result = step.tick((FIRST_DAY + day) * DAY_MS)
            outputs, more = outputs + result.outputs, result.more
        told.append(_embedded(store, outputs, len(told)))
    step.close()

    assert [covered for covered, _ in told] == [True, True, True, True, False]
    assert len({tuple(vector) for _, vector in told}) == len(told)
    unvisited = fresh_towers(registry(), TOWER, seed=0)
    assert told[-1][1] == embed_pins(unvisited, empty_records(np.array([_PIN]))).vectors[0].tolist()
