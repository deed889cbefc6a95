"""A server without a disk full of releases: its parts, and a fake release put into its handle."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.store import MemoryStore
from features.user_state import USER_RECORD
from serving.live_release import Assembly
from serving.parts import ServingConfig, ServingParts, build_parts
from serving.pipeline import FunnelPolicy
from serving.telemetry import ServingTelemetry

from .fakes import REGISTRY_HASH, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def users() -> MemoryStore:
    return MemoryStore(USER_RECORD)


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def config(tmp_path: Path, clock: FakeClock, users: MemoryStore, metrics: CollectorRegistry) -> ServingConfig:
    numbers = count(1)
    return ServingConfig(
        data=tmp_path,
        registry=registry(),
        clock=clock.clock(),
        telemetry=ServingTelemetry(metrics),
        users=users,
        policy=FunnelPolicy(retrieve=20, keep=10),
        admin_token="the-admin-token",
        new_request_id=lambda: f"made-{next(numbers)}",
    )


@pytest.fixture
def parts(config: ServingConfig) -> Iterator[ServingParts]:
    built = build_parts(config)
    yield built
    built.close()


@pytest.fixture
def assembly(parts: ServingParts) -> Assembly:
    return Assembly(REGISTRY_HASH, parts.config.policy.auction, parts.ledger, parts.clock.now_ms)
