"""A rollback is for emergencies: it waits for nobody who publishes meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from entrypoints import releasing, rolling_back, rollover
from entrypoints.clocks import now_ms
from entrypoints.releasing import Releaser
from entrypoints.rolling_back import RolledBack, roll_back
from entrypoints.rollover import start_rollover
from entrypoints.rollover_record import read_rollover
from entrypoints.settings import Settings
from index.object_releases import ObjectReleases, Places
from index.object_store import memory_objects
from models.live_towers import locked_live_towers, read_live_towers, write_live_towers
from schemas.manifests import TowerManifest
from tests.entrypoints.world import cut, save_tower
from tests.index.stores import Flaky

SECONDS = 60.0
"""More than any of it takes; a rollback that waits for the upload runs into it."""


@dataclass
class SlowStore:
    """A data directory whose releases are in an object store; while `slow`, an upload waits for `go`."""

    settings: Settings
    towers: list[TowerManifest]
    slow: bool = False
    uploading: Event = field(default_factory=Event)
    go: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        self.objects = Flaky(memory_objects(), self._trouble)

    def _trouble(self, moment: str, operation: str, key: str) -> None:
        if self.slow and (moment, operation) == ("before", "put"):
            self.uploading.set()
            assert self.go.wait(SECONDS)

    def store(self, settings: Settings) -> ObjectReleases:
        return ObjectReleases(self.objects, Places(settings.releases_dir, settings.towers_dir))

    @property
    def live(self) -> list[int]:
        names = [one.tower_version for one in self.towers]
        return [names.index(one) for one in read_live_towers(self.settings.towers_dir)]

    def roll_back_during_the_release_of(self, tower: int, hour: int) -> tuple[RolledBack, str | None, int]:
        """What came of it, what was live and how many moves there were while the upload still stood."""
        snapshot = cut(self.settings.data_dir, self.towers[tower], 30, hour=hour)
        self.slow = True
        with ThreadPoolExecutor(2) as beside:
            publishing = beside.submit(Releaser(self.settings), snapshot)
            try:
                assert self.uploading.wait(SECONDS)
                store = self.store(self.settings)
                seen = store.current()
                done = beside.submit(roll_back, self.settings, "ada", "recall fell", seen).result(SECONDS)
                found = done, store.current(), len(store.audit())
            finally:
                self.go.set()
            publishing.result()
        return found


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowStore]:
    settings = Settings.load(data_dir=tmp_path)
    made = SlowStore(settings, [save_tower(tmp_path, seed) for seed in (1, 2)])
    for module in (releasing, rolling_back, rollover):
        monkeypatch.setattr(module, "release_store", made.store)
    monkeypatch.setattr(rolling_back, "_PAUSE_SECONDS", 0.0)
    write_live_towers(settings.towers_dir, [one.tower_version for one in made.towers])
    Releaser(settings)(cut(tmp_path, made.towers[0], 30))
    yield made
    made.go.set()


def test_a_rollback_does_not_wait_for_a_release_that_is_being_sent_up(slow: SlowStore) -> None:
    first = slow.store(slow.settings).current()
    Releaser(slow.settings)(cut(slow.settings.data_dir, slow.towers[0], 30, hour=1))

    done, live, moves = slow.roll_back_during_the_release_of(0, hour=2)

    assert (done.move.release_id, live, moves, done.live_towers) == (first, first, 3, None)
    # Who published lost that race, and took what was newest then.
    actions = [move.action for move in slow.store(slow.settings).audit()]
    assert actions == ["publish", "publish", "rollback", "publish"]


def test_live_is_put_right_by_who_publishes_when_the_rollback_could_not_wait_for_it(
    slow: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    Releaser(slow.settings)(cut(slow.settings.data_dir, slow.towers[1], 30, hour=1))
    assert slow.live == [1]

    done, live, _ = slow.roll_back_during_the_release_of(1, hour=2)

    assert (done.live_towers, live) == (None, done.move.release_id)
    assert "live_locked" in caplog.text
    assert slow.live == [0, 1]
    assert slow.store(slow.settings).current() == done.move.release_id


def test_a_rollback_to_another_tower_waits_a_moment_for_live(slow: SlowStore) -> None:
    Releaser(slow.settings)(cut(slow.settings.data_dir, slow.towers[1], 30, hour=1))
    waits: list[float] = []
    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(1) as beside:
        asked, free = Event(), Event()

        def pause(seconds: float) -> None:
            waits.append(seconds)
            asked.set()
            assert free.wait(SECONDS)

        patched.setattr("entrypoints.rolling_back.time.sleep", pause)
        with locked_live_towers(slow.settings.towers_dir):
            done = beside.submit(roll_back, slow.settings, "ada", "recall fell", ...)
            assert asked.wait(SECONDS)
        free.set()
        assert done.result(SECONDS).live_towers == [one.tower_version for one in slow.towers]
    assert len(waits) == 1


def test_a_candidate_that_is_rolled_back_before_its_rollover_was_closed_is_not_released_by_itself_again(
    slow: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = slow.towers
    wish, times = rollover.RolloverWish("ada", "week 32"), rollover.Times(now_ms)
    start_rollover(slow.settings, new.tower_version, wish, times)
    settle = Releaser._settle_towers

    def rolled_back_first(*arguments: Any) -> None:
        roll_back(slow.settings, "ada", "recall fell", ...)
        settle(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Releaser, "_settle_towers", rolled_back_first)
        Releaser(slow.settings)(cut(slow.settings.data_dir, new, 30, hour=1))
    assert read_rollover(slow.settings) is None

    Releaser(slow.settings)(cut(slow.settings.data_dir, new, 30, hour=2))

    live = slow.store(slow.settings).comparable_live()
    assert live is not None and live.tower_version == old.tower_version
    assert slow.live == [0, 1]
