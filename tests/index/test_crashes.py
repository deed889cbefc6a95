"""A process that dies between any two durable steps leaves the old release or the new one, never a mix."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from index.loading import load_index
from tests.index.builders import REGISTRY, Workshop, rows_of

_DURABLE: list[tuple[object, str]] = [
    (os, "fsync"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "hardlink_to"),
    (Path, "unlink"),
    (shutil, "rmtree"),
]


class Died(BaseException):
    """The process is gone: nothing that it tries afterwards reaches the disk."""


class Mortal:
    """Lets `steps` durable steps happen, then none."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        self.left = steps
        self.died = False
        for owner, name in _DURABLE:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            if self.left == 0:
                self.died = True
                raise Died
            self.left -= 1
            return step(*args, **named)

        return counted


def _roll_out(workshop: Workshop) -> str:
    """One hour's work: cut, build, publish."""
    release = workshop.build(rows_of(30, seed=2), 2, kind="ivf").release_id
    workshop.releases.publish(release, actor="test", reason="hourly")
    return release


def test_a_death_at_any_step_of_cut_build_and_publication_is_harmless(tmp_path: Path) -> None:
    expected = _roll_out(Workshop(tmp_path / "undisturbed"))
    for steps in range(1000):
        workshop = Workshop(tmp_path / str(steps))
        old = workshop.published(rows_of(30), 1).release_id
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(patch, steps)
            with suppress(Died):
                _roll_out(workshop)
        store = workshop.releases
        current = store.current()
        assert current in (old, expected)
        assert store.audit()[-1].release_id == current
        for release in store.list():
            assert len(load_index(store, release, registry_hash=REGISTRY)) == 30
        assert _roll_out(workshop) == store.current() == expected
        assert [move.release_id for move in store.audit()] == [old, expected]
        if not mortal.died:
            break
    assert steps >= 20  # so many durable steps there are at least; each was a death


def test_a_death_at_any_step_of_a_rollback_is_harmless(tmp_path: Path) -> None:
    for steps in range(100):
        workshop = Workshop(tmp_path / str(steps))
        first, second = (workshop.published(rows_of(5, seed=hour), hour).release_id for hour in (1, 2))
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(patch, steps)
            with suppress(Died):
                workshop.releases.rollback(actor="test", reason="bad")
        current = workshop.releases.current()
        assert current in (first, second)
        assert workshop.releases.audit()[-1].release_id == current
        if not mortal.died:
            assert current == first
            break
    assert steps >= 4


def test_a_death_at_any_step_of_a_clean_up_loses_no_release_that_is_needed(tmp_path: Path) -> None:
    for steps in range(100):
        workshop = Workshop(tmp_path / str(steps))
        kept = [workshop.published(rows_of(5, seed=hour), hour).release_id for hour in (1, 2, 3)]
        with pytest.MonkeyPatch.context() as patch:
            mortal = Mortal(patch, steps)
            with suppress(Died):
                workshop.releases.retain(0)
        for release in workshop.releases.list():
            load_index(workshop.releases, release, registry_hash=REGISTRY)
        assert workshop.releases.list()[-2:] == kept[1:]
        workshop.releases.retain(0)
        assert workshop.releases.list() == kept[1:]
        assert not list(workshop.releases.root.glob(".deleting-*"))
        if not mortal.died:
            break
    assert steps >= 2
