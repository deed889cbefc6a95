"""A training row that has every feature, scored with the mask of the served row, gives the live score."""

import base64
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry

from benchmarks import fixtures
from benchmarks.fixtures import HOUR_MS
from entrypoints.releasing import Releaser
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from features.definitions import registry
from features.pin_state import Records
from index.loading import load_index
from models.live_towers import write_live_towers
from models.predictor import PinTower
from schemas.ranking import RankRequest
from serving.clock import Clock
from serving.parts import ServingConfig, build_parts
from serving.ranking_log import read_ranking_log
from serving.telemetry import ServingTelemetry
from tests.entrypoints.world import save_tower

PINS = 60
THINNED = ("content_embedding", "price_micros", "display_stores", "title_tokens")
"""Record fields that never reached every second Pin of the index."""


def _served(full: Records) -> Records:
    """What the online path had of these Pins."""
    served = full.copy()
    for name in THINNED:
        served[name][::2] = 0
    return served


def test_the_served_mask_on_a_full_training_row_gives_the_live_score_and_without_it_another(
    tmp_path: Path,
) -> None:
    settings, tower = Settings.load(data_dir=tmp_path), save_tower(tmp_path, seed=3)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    full = fixtures.catalogue(PINS, seed=1).pins
    titles = pa.array([f"Pin {number}" for number in range(PINS)], pa.string())
    Releaser(settings)(fixtures.cut(tmp_path, tower, _served(full), titles))
    clock = Clock(now_ms=lambda: HOUR_MS + 1, seconds=lambda: 0.0)
    parts = build_parts(ServingConfig(tmp_path, registry(), clock, ServingTelemetry(CollectorRegistry())))
    parts.watcher.check()
    parts.recorder.ranking_log.append(parts.pipeline.rank(RankRequest(user_id=5, slots=20)))
    parts.close()
    (row,) = read_ranking_log(settings.logs_dir)

    query = np.frombuffer(base64.b64decode(row.query_vector), "<f4")
    index = load_index(release_store(settings), row.release_id, registry_hash=registry().content_hash)
    masks = dict(
        zip(index.attributes["pin_id"].tolist(), index.attributes["input_mask"].tolist(), strict=True)
    )
    logged = {ad.pin_id: ad.dot for ad in row.ads}
    records = full[np.isin(full["pin_id"], list(logged))]
    pins = records["pin_id"].tolist()
    pin_tower = PinTower.load(settings.towers_dir, tower.tower_version, registry())
    as_served = pin_tower.embed_as_served(records, np.array([masks[pin] for pin in pins]))

    # The index holds fp16: three decimals of a dot product of this length.
    live = np.array([logged[pin] for pin in pins])
    assert as_served.vectors @ query == pytest.approx(live, abs=2e-2)
    assert as_served.input_mask.tolist() == [masks[pin] for pin in pins]
    thinned = np.array([masks[pin] for pin in pins]) != pin_tower.embed(records).input_mask
    assert thinned.any() and not thinned.all()
    elsewhere = np.abs(pin_tower.embed(records).vectors @ query - live)
    assert elsewhere[~thinned].max() < 2e-2 < elsewhere[thinned].max()
