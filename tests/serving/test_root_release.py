"""A root that starts while the store is away begins with the manifest that it kept."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from features.definitions import registry
from features.shard_slices import Shard
from index.releases import ReleaseStore
from schemas.errors import RetryableError
from schemas.manifests import ReleaseManifest
from serving.kept_manifest import KEPT_NAME
from serving.ledger import SpendLedger
from serving.live_release import Assembly, ReleaseLoader
from serving.parts import ServingConfig
from serving.release_watcher import Source
from serving.remote_leaves import LeafPolicy, Leaves
from serving.root_release import behind_leaves
from serving.shard_telemetry import RootTelemetry

from .test_end_to_end import save_release, save_tower
from .test_remote_leaves import FakeLeaf

NEWER = "20991231T23Z-newer"


class AwayStore(ReleaseStore):
    """A store that does not answer; it remembers what it said last."""

    seen: str | None = None

    def current(self) -> str | None:
        raise RetryableError("the store did not answer")

    def manifest(self, release_id: str) -> ReleaseManifest:
        raise RetryableError("the store did not answer")

    def last_seen(self) -> str | None:
        return self.seen


class NamingStore(ReleaseStore):
    """A store whose CURRENT is what the test says, or that does not answer."""

    named: str | None = None

    def current(self) -> str | None:
        if self.named is None:
            raise RetryableError("the store did not answer")
        return self.named


class World:
    """A release, and a root's source over a store that is there or away."""

    def __init__(self, config: ServingConfig) -> None:
        self._clock = config.clock
        self.fakes: list[FakeLeaf] = []
        self.root, self._towers = config.data / "releases", config.data / "towers"
        self.release = save_release(config.data, save_tower(config.data, 1))
        self.leaves = self.leaves_at("127.0.0.1:1")
        self._assembly = Assembly(
            registry().content_hash, config.policy.auction, SpendLedger(), config.clock.now_ms
        )

    def leaves_at(self, *addresses: str) -> Leaves:
        return Leaves(addresses, LeafPolicy(), self._clock, RootTelemetry(CollectorRegistry()))

    def source(self, store: ReleaseStore) -> Source:
        return behind_leaves(self.leaves, ReleaseLoader(store, self._towers, registry(), self._assembly))

    def away(self, seen: str | None) -> Source:
        store = AwayStore(self.root)
        store.seen = seen
        return self.source(store)


@pytest.fixture
def world(config: ServingConfig) -> Iterator[World]:
    made = World(config)
    yield made
    made.leaves.close()
    for fake in made.fakes:
        fake.close()


def test_a_root_that_starts_while_the_store_is_away_has_what_it_loaded_last(world: World) -> None:
    world.source(ReleaseStore(world.root)).load(world.release)
    # CURRENT had moved on already, to what the root waited for.
    restarted = world.away(seen=NEWER)
    assert restarted.last_seen() == world.release
    assert restarted.load(world.release).release_id == world.release
    with pytest.raises(RetryableError):
        restarted.load(NEWER)


def test_a_root_that_never_loaded_anything_has_nothing_to_begin_with(world: World) -> None:
    with pytest.raises(RetryableError):
        world.away(seen=world.release).load(world.release)


def test_what_was_kept_is_not_begun_with_over_a_store_that_was_never_seen(world: World) -> None:
    world.source(ReleaseStore(world.root)).load(world.release)
    assert world.away(seen=None).last_seen() is None


def test_a_root_that_began_with_what_it_kept_goes_over_to_what_more_leaves_hold(world: World) -> None:
    """As when the third leaf refuses the newer release for ever: nobody would see two thirds of the Pins."""
    held = ([NEWER], [NEWER], [world.release])
    fakes = world.fakes = [FakeLeaf(Shard(number, 3), one) for number, one in enumerate(held, start=1)]
    world.leaves = world.leaves_at(*(fake.address for fake in fakes))
    store = NamingStore(world.root)
    source = world.source(store)
    with pytest.raises(RetryableError):
        source.current()
    world.leaves.find()
    world.leaves.look()
    source.load(world.release)
    store.named = NEWER
    assert (source.current(), world.leaves.blocking(NEWER)) == (NEWER, [fakes[2].address])
    fakes[1].held = [world.release]
    world.leaves.look()
    assert source.current() == world.release, "one has the newer release, two have what is served"


def test_a_damaged_manifest_is_as_good_as_none(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.source(ReleaseStore(world.root)).load(world.release)
    (world.root / KEPT_NAME).write_bytes(b"{}")
    restarted = world.away(seen=world.release)
    with pytest.raises(RetryableError), caplog.at_level(logging.WARNING):
        restarted.load(world.release)
    assert "cannot be read" in caplog.text


def test_a_disk_that_cannot_be_written_to_keeps_no_release_from_being_served(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("serving.kept_manifest.write_atomic", full)
    release = world.source(ReleaseStore(world.root)).load(world.release)
    assert release.release_id == world.release
    assert "no space left" in caplog.text
