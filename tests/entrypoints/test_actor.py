"""Who a hand-made move is put down to."""

import getpass
import os
import pwd
from pathlib import Path

import pytest

from entrypoints.actor import actor
from entrypoints.cli_release import rollback
from entrypoints.releasing import Releaser
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from models.live_towers import write_live_towers
from tests.entrypoints.world import cut, save_tower


@pytest.fixture
def nobody_knows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container whose uid has no passwd entry."""

    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_it_is_the_user_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert actor() == "ada"


def test_a_python_that_raises_another_error_for_an_unknown_user_makes_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert actor() == f"uid {os.getuid()}"


@pytest.mark.usefixtures("nobody_knows_the_user")
def test_a_user_without_a_name_can_roll_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = save_tower(tmp_path, seed=1)
    write_live_towers(tmp_path / "towers", [tower.tower_version])
    for hour in (0, 1):
        Releaser(Settings.load(data_dir=tmp_path))(cut(tmp_path, tower, 30, hour=hour))
    store = release_store(Settings.load(data_dir=tmp_path))
    first, second = (move.release_id for move in store.audit())
    monkeypatch.setenv("SKEWLESS_DATA_DIR", str(tmp_path))

    rollback(reason="recall fell", expected=second, as_json=True)

    assert store.current() == first
    assert store.audit()[-1].actor == f"uid {os.getuid()}"
