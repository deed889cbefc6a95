from pathlib import Path

import numpy as np
import orjson
import pytest

from benchmarks.enrich import random_tower
from benchmarks.enrich_workload import Workload, events
from benchmarks.peers.job import merge_all, rows
from benchmarks.peers.tower_numpy import NumpyTower
from features.definitions import registry
from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from models.predictor import PinTower
from schemas.vectors import decode_fp16
from streams.decoding import decode_source
from streams.pin_fold import fold_pins
from tests.streams.batches import source_batch


@pytest.mark.parametrize("spelling", ["base64", "array"])
def test_the_peers_tower_gives_our_towers_vectors(tmp_path: Path, spelling: str) -> None:
    version = random_tower(tmp_path)
    made = events(500, Workload(spelling))  # type: ignore[arg-type]  # one of the two
    batch = source_batch([key for key, _ in made], [value for _, value in made])
    folded = fold_pins(MemoryStore(PIN_RECORD), [(batch, decode_source(batch))])
    ours = PinTower.load(tmp_path, version, registry()).embed(folded.records).vectors
    entries = merge_all({}, [value for _, value in made])
    theirs = {
        row["pin_id"]: decode_fp16(row["vector"])
        for row in (orjson.loads(value) for _, value in rows(NumpyTower(tmp_path, version), entries))
    }
    assert sorted(theirs) == folded.pin_ids.tolist()
    np.testing.assert_allclose([theirs[pin] for pin in sorted(theirs)], ours, atol=1e-3)
