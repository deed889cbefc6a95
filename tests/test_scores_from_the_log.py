"""A score can be recomputed from what was logged and what was released, by the plainest arithmetic."""

import base64
import math
import struct
from pathlib import Path

from prometheus_client import CollectorRegistry

from entrypoints.releasing import Releaser
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from features.definitions import registry
from index.loading import load_index
from models.live_towers import write_live_towers
from schemas.ranking import RankRequest
from serving.answers import response_of
from serving.clock import Clock
from serving.parts import ServingConfig, build_parts
from serving.ranking_log import read_ranking_log
from serving.telemetry import ServingTelemetry
from tests.entrypoints.world import HOUR_MS, cut, save_tower


def test_score_is_the_sigmoid_of_the_dot_of_the_logged_vectors(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    tower = save_tower(tmp_path, seed=3)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    Releaser(settings)(cut(tmp_path, tower, 60))
    clock = Clock(now_ms=lambda: HOUR_MS + 1, seconds=lambda: 0.0)
    parts = build_parts(ServingConfig(tmp_path, registry(), clock, ServingTelemetry(CollectorRegistry())))
    parts.watcher.check()

    ranked = parts.pipeline.rank(RankRequest(user_id=5, slots=10))
    parts.recorder.ranking_log.append(ranked)
    parts.close()
    response = response_of(ranked)
    (row,) = read_ranking_log(settings.logs_dir)

    packed = base64.b64decode(row.query_vector)
    query = struct.unpack(f"<{len(packed) // 4}f", packed)
    index = load_index(release_store(settings), row.release_id, registry_hash=registry().content_hash)
    slot = {pin: number for number, pin in enumerate(index.attributes["pin_id"].tolist())}
    assert len(row.ads) == 10
    for logged, served in zip(row.ads, response.ads, strict=True):
        pin = index.vectors[slot[logged.pin_id]].tolist()
        dot = sum(q * p for q, p in zip(query, pin, strict=True))
        assert math.isclose(logged.dot, dot, rel_tol=1e-5, abs_tol=1e-5)
        assert math.isclose(served.score, 1 / (1 + math.exp(-dot)), rel_tol=1e-5)
        assert logged.tower_version == row.query_tower_version == response.pin_tower_version
        assert served.price_micros == logged.price_micros <= served.bid_micros
