"""Deleting a run, whatever is killed or at work in it meanwhile."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.snapshots import SnapshotRows
from schemas.artefacts import read_manifest, staged
from schemas.embedding_runs import EmbeddingRun, EmbeddingShard
from schemas.errors import Refused
from schemas.tiers import Tier
from streams import embedding_runs
from streams.batch_embedding import embed_states
from streams.embedding_runs import EmbeddingRuns, RunDirectory
from tests.fakes import FakePinTower
from tests.schemas.examples import VERSION_A
from tests.streams.test_batch_embedding import states

SLOW = Tier(name="slow", policy="batch")
NAME = f"slow-{VERSION_A[:12]}"
PLAN = EmbeddingRun(
    run_id=f"{NAME}-0000",
    tier="slow",
    policy="batch",
    tower_version=VERSION_A,
    clock="event",
    started_ms=0,
    ends={0: 3, 1: 3},
)


class Killed(BaseException):
    """The process ends here."""


def _shard(run: RunDirectory, partition: int = 0) -> tuple[SnapshotRows, EmbeddingShard]:
    rows = embed_states(FakePinTower(), 4, states(3), 8, lambda: False).rows
    shard = EmbeddingShard(
        run_id=run.manifest.run_id,
        partition=partition,
        first_offset=0,
        end_offset=3,
        state_rows=3,
        rows=3,
        failed={},
        unreadable={},
        files=[],
    )
    return rows, shard


def _hidden(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".") and path.is_dir()]


def _killed_while(monkeypatch: pytest.MonkeyPatch, deleting: Callable[[], None]) -> None:
    def killed(path: Any, **_: object) -> None:
        first = next(one for one in sorted(Path(path).iterdir()) if one.is_file())
        first.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(Killed):
            deleting()


def test_a_deletion_that_is_killed_leaves_no_run_and_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = EmbeddingRuns(tmp_path)
    first = runs.begin(PLAN)
    _killed_while(monkeypatch, lambda: runs.discard(first.path.name))

    assert (runs.of(NAME), runs.names(VERSION_A)) == ([], [])
    assert len(_hidden(tmp_path)) == 1
    again = runs.begin(PLAN.model_copy(update={"ends": {0: 9}}))

    assert again.manifest.ends == {0: 9}
    assert runs.names(VERSION_A) == [again.path.name]
    assert _hidden(tmp_path) == []


def test_a_wreck_under_the_name_of_a_run_is_in_nobodys_way(tmp_path: Path) -> None:
    """As a deletion before it was one rename left it."""
    runs = EmbeddingRuns(tmp_path)
    wreck = runs.begin(PLAN).path
    (wreck / "READY").unlink()
    assert runs.names(VERSION_A) == []

    begun = runs.begin(PLAN.model_copy(update={"ends": {0: 9}}))

    assert begun.manifest.ends == {0: 9}
    assert runs.names(VERSION_A) == [begun.path.name]
    assert runs.unfinished(SLOW, VERSION_A) is not None


@pytest.mark.parametrize("step", ["write_vectors", "write_attributes", "write_manifest", "publish_staged"])
def test_a_shard_whose_run_is_deleted_under_it_is_refused_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    runs = EmbeddingRuns(tmp_path)
    run = runs.begin(PLAN)
    rows, shard = _shard(run)
    real = getattr(embedding_runs, step)

    def deleted_first(*given: Any) -> Any:
        runs.discard(run.path.name)
        return real(*given)

    monkeypatch.setattr(embedding_runs, step, deleted_first)
    with pytest.raises(Refused, match="run_gone"):
        run.write_shard(rows, shard)
    assert not run.path.exists()


def test_a_shard_that_was_written_into_a_run_deleted_just_before_is_refused_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = EmbeddingRuns(tmp_path)
    run = runs.begin(PLAN)

    def deleted_first(parent: Path) -> Any:
        runs.discard(run.path.name)
        return staged(parent)

    monkeypatch.setattr(embedding_runs, "staged", deleted_first)
    with pytest.raises(Refused, match="run_gone"):
        run.write_shard(*_shard(run))
    monkeypatch.undo()
    assert runs.names(VERSION_A) == []
    assert runs.begin(PLAN).missing() == [0, 1]


def test_what_is_missing_while_the_run_is_there_is_not_called_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = EmbeddingRuns(tmp_path).begin(PLAN)

    def disk(*_: object) -> None:
        raise FileNotFoundError(2, os.strerror(2))

    monkeypatch.setattr(embedding_runs, "write_vectors", disk)
    with pytest.raises(FileNotFoundError):
        run.write_shard(*_shard(run))


def test_a_run_that_is_over_goes_with_the_next_and_numbers_go_up(tmp_path: Path) -> None:
    runs = EmbeddingRuns(tmp_path)
    first = runs.begin(PLAN)
    for number in first.partitions:
        rows, shard = _shard(first, number)
        first.write_shard(rows, shard)
    (first.path / embedding_runs.ASSEMBLED).write_text(
        '{"snapshot_id": "s", "rows": 1, "failed": 0, "unreadable": 0}'
    )
    second = runs.begin(PLAN)
    assert (first.path.name, second.path.name) == (f"{NAME}-0001", f"{NAME}-0002")
    assert runs.names(VERSION_A) == [second.path.name]
    runs.discard(first.path.name)  # gone already
    assert _hidden(tmp_path) == []


@pytest.mark.parametrize(
    "tier",
    [
        Tier(name="slow", policy="batch", first_bucket=20),
        Tier(name="slow", policy="batch", end_bucket=50),
        Tier(name="slow", policy="realtime"),
    ],
)
def test_a_run_of_a_tier_that_was_declared_anew_since_is_not_gone_on_with_and_goes(
    tmp_path: Path, tier: Tier
) -> None:
    runs = EmbeddingRuns(tmp_path)
    first = runs.begin(PLAN)
    now = {"policy": tier.policy, "first_bucket": tier.first_bucket, "end_bucket": tier.end_bucket}
    assert (runs.unfinished(tier, VERSION_A), runs.newest(tier, VERSION_A)) == (None, None)

    second = runs.begin(PLAN.model_copy(update=now))

    assert second.path.name != first.path.name and second.manifest.slice == tier
    assert runs.names(VERSION_A) == [second.path.name]


def test_a_run_from_before_runs_said_their_buckets_is_of_all_of_them(tmp_path: Path) -> None:
    run = EmbeddingRuns(tmp_path).begin(PLAN)
    said = json.loads((run.path / "manifest.json").read_bytes())
    old = {key: said[key] for key in said if key not in {"first_bucket", "end_bucket"}} | {"format": 1}

    assert EmbeddingRun.model_validate_json(json.dumps(old)).slice == SLOW


def test_a_deletion_makes_no_directory_for_which_a_full_disk_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = EmbeddingRuns(tmp_path)
    first = runs.begin(PLAN)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", full)
    runs.discard(first.path.name)

    assert (runs.names(VERSION_A), _hidden(tmp_path)) == ([], [])


def test_the_remains_of_a_killed_deletion_of_the_same_name_are_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = EmbeddingRuns(tmp_path)
    first = runs.begin(PLAN)
    _killed_while(monkeypatch, lambda: runs.discard(first.path.name))
    (remains,) = [tmp_path / name for name in _hidden(tmp_path)]
    shutil.copytree(remains, tmp_path / "kept")
    again = runs.begin(PLAN)
    assert again.path == first.path
    (tmp_path / "kept").rename(remains)

    runs.discard(again.path.name)

    assert (runs.names(VERSION_A), _hidden(tmp_path)) == ([], [])


def test_shards_of_a_run_that_is_deleted_while_they_are_read_are_refused_as_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = EmbeddingRuns(tmp_path)
    run = runs.begin(PLAN)
    run.write_shard(*_shard(run))

    def deleted_first(directory: Path, model: type[Any]) -> Any:
        runs.discard(run.path.name)
        return read_manifest(directory, model)

    monkeypatch.setattr(embedding_runs, "read_manifest", deleted_first)
    with pytest.raises(Refused, match="run_gone"):
        run.shards()
