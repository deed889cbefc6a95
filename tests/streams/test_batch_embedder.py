import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from features.tier_slices import in_tier
from index.snapshots import list_snapshots, read_snapshot
from schemas.embedding_runs import AssembledRun
from schemas.errors import Refused, RetryableError
from schemas.manifests import SnapshotManifest, TowerManifest
from schemas.statuses import EmbedStatus
from schemas.tiers import Tier
from schemas.topics import PIN_FEATURES
from streams.batch_embedder import BatchEmbedder, Embedded, EmbedPlan, EmbedSurroundings, Share
from streams.embedding_runs import EmbeddingRuns, RunDirectory
from streams.live_gate import Waiting
from tests.fakes import FakePinTower, FullPinTower
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.states_in_memory import EPOCH_MS, StatesInMemory, checkpoint, tower_manifest

ROOT = Path(__file__).parents[2]
HOUR_MS = 3_600_000
SLOW = Tier(name="slow", policy="batch")


@dataclass
class Job:
    """A batch embedder over states in memory; `run` is a process of its own."""

    root: Path
    source: StatesInMemory = field(default_factory=lambda: filled(40))
    tower: FakePinTower = field(default_factory=FakePinTower)
    tier: Tier = SLOW
    share: Share = field(default_factory=Share)
    stopped: Callable[[], bool] = lambda: False
    shown: list[EmbedStatus] = field(default_factory=list)
    now: float = 0.0

    def embedder(self) -> BatchEmbedder:
        def pause(seconds: float) -> None:
            self.now += seconds

        waiting = Waiting(5.0, lambda: self.now, pause, lambda why: None, self.stopped)
        around = EmbedSurroundings(waiting, lambda: EPOCH_MS, self.shown.append)
        plan = EmbedPlan(self.tier, self.root / "embeddings", self.root / "snapshots", "event", self.share)
        manifest = tower_manifest(self.tower.version)
        return BatchEmbedder(self.source, self.tower, manifest, plan, around)

    def run(self) -> Embedded | None:
        return self.embedder().run()

    def snapshot(self, snapshot_id: str) -> tuple[SnapshotManifest, dict[int, int]]:
        """A snapshot, and Pin -> revision in it."""
        manifest, rows = read_snapshot(self.root / "snapshots", snapshot_id)
        fields = rows.attributes
        return manifest, dict(zip(fields["pin_id"].tolist(), fields["changed_offset"].tolist(), strict=True))


def filled(pins: int, partitions: int = 4) -> StatesInMemory:
    source = StatesInMemory(partitions)
    for pin in range(pins):
        source.put(pin, title=f"Pin {pin}")
    return source


def assembled(done: Embedded | None) -> str:
    assert done is not None and done.assembled is not None
    return done.assembled.snapshot_id


def test_one_run_becomes_one_snapshot_of_the_tier(tmp_path: Path) -> None:
    job = Job(tmp_path)

    done = job.run()

    manifest, pins = job.snapshot(assembled(done))
    assert pins == dict.fromkeys(range(40), 0)
    assert (manifest.tier, manifest.source, manifest.versions) == ("slow", "batch", {VERSION_A: 40})
    assert manifest.offsets == {PIN_FEATURES.name: {0: 10, 1: 10, 2: 10, 3: 10}}
    assert (manifest.hour_ms, manifest.clock) == (EPOCH_MS, "event")
    assert manifest.pin_inputs == ["pin_id", "price"]


def test_a_pin_that_fails_is_named_and_counted_and_the_rest_is_embedded(tmp_path: Path) -> None:
    job = Job(tmp_path, tower=FakePinTower(poison=frozenset({5, 6})))

    done = job.run()

    assert done is not None and set(done.failed) == {5, 6} and done.rows == 38
    assert done.assembled is not None and done.assembled.failed == 2
    assert job.shown[-1].failed == 2


def test_a_device_without_memory_ends_the_run_which_goes_on_with_nothing_set_aside(tmp_path: Path) -> None:
    job = Job(tmp_path, tower=FullPinTower(times=[1]))
    with pytest.raises(RetryableError, match="no memory"):
        job.run()

    done = job.run()

    assert done is not None and done.failed == {} and done.rows == 40
    assert job.snapshot(assembled(done))[0].versions == {VERSION_A: 40}


def test_a_rebuild_that_was_stopped_goes_on_where_it_was_and_embeds_no_pin_twice(tmp_path: Path) -> None:
    """User pain 9: a rebuild that starts from zero whenever writes arrive or it is interrupted."""
    whole = Job(tmp_path / "whole")
    expected = assembled(whole.run())
    job = Job(tmp_path / "stopped")
    embedded: list[int] = []
    job.stopped = lambda: len(job.shown) > 0 and job.shown[-1].done >= 2
    first = job.run()
    assert first is not None and first.assembled is None and first.missing == [2, 3]
    job.stopped = lambda: False
    job.source.on_read = embedded.append

    second = job.run()

    assert set(embedded) == {2, 3}
    assert first.run_id == (second.run_id if second else "")
    assert assembled(second) == expected
    for path in (tmp_path / "whole" / "snapshots" / expected).iterdir():
        assert path.read_bytes() == (tmp_path / "stopped" / "snapshots" / expected / path.name).read_bytes()


def test_writes_that_arrive_while_it_is_interrupted_do_not_start_it_over(tmp_path: Path) -> None:
    job = Job(tmp_path, stopped=lambda: bool(job.shown) and job.shown[-1].done >= 2)
    job.run()
    for pin in (0, 1, 2, 3):
        job.source.put(pin, revision=9)
    job.stopped = lambda: False
    read: list[int] = []
    job.source.on_read = read.append

    manifest, pins = job.snapshot(assembled(job.run()))

    assert set(read) == {2, 3}
    assert [pins[pin] for pin in (0, 1, 2, 3)] == [0, 0, 9, 9]
    # What each partition covers is said, so whoever folds the rest in knows where to go on.
    assert manifest.offsets == {PIN_FEATURES.name: {0: 10, 1: 10, 2: 11, 3: 11}}


def test_processes_share_the_partitions_and_the_last_one_assembles(tmp_path: Path) -> None:
    expected = assembled(Job(tmp_path / "alone").run())
    source = filled(40)
    first = Job(tmp_path / "shared", source, share=Share(0, 2)).run()
    assert first is not None and first.missing == [1, 3] and first.assembled is None

    second = Job(tmp_path / "shared", source, share=Share(1, 2)).run()

    assert assembled(second) == expected


def test_two_that_assemble_make_one_snapshot(tmp_path: Path) -> None:
    job = Job(tmp_path)
    first = assembled(job.run())

    again = job.embedder().assemble()
    (run,) = EmbeddingRuns(tmp_path / "embeddings").of(f"slow-{VERSION_A[:12]}")
    (run.path / "ASSEMBLED").unlink()  # killed between the snapshot and the word that there is one
    third = job.embedder().assemble()

    assert assembled(again) == assembled(third) == first
    assert list_snapshots(tmp_path / "snapshots") == [first]


def test_assembling_what_lacks_a_shard_names_the_partitions(tmp_path: Path) -> None:
    Job(tmp_path, share=Share(0, 2)).run()

    with pytest.raises(Refused, match="shards_missing") as refused:
        Job(tmp_path).embedder().assemble()

    assert "1, 3" in refused.value.came


def test_a_new_run_begins_after_the_old_one_was_assembled_and_takes_its_place(tmp_path: Path) -> None:
    job = Job(tmp_path)
    first = job.run()
    job.source.put(7, revision=3)

    second = job.run()

    assert first is not None and second is not None and first.run_id != second.run_id
    assert job.snapshot(assembled(second))[1][7] == 3
    runs = [path.name for path in (tmp_path / "embeddings").iterdir() if not path.name.startswith(".")]
    assert runs == [second.run_id]


def test_a_run_of_another_tower_is_another_run(tmp_path: Path) -> None:
    """User pain 9: a model is its content, not a name; renaming nothing re-embeds nothing, and vice versa."""
    one = Job(tmp_path).run()
    other = Job(tmp_path, tower=FakePinTower(version=VERSION_B)).run()

    assert one is not None and other is not None and one.run_id != other.run_id
    assert len(list_snapshots(tmp_path / "snapshots")) == 2


def test_a_tower_whose_version_begins_alike_gets_none_of_the_vectors_of_the_other(tmp_path: Path) -> None:
    alike = VERSION_A[:12] + VERSION_B[12:]
    Job(tmp_path, share=Share(0, 2)).run()
    begun = EmbeddingRuns(tmp_path / "embeddings").unfinished(SLOW, VERSION_A)
    assert begun is not None

    other = Job(tmp_path, tower=FakePinTower(version=alike)).run()

    assert other is not None and other.run_id != begun.path.name
    assert EmbeddingRuns(tmp_path / "embeddings").unfinished(SLOW, VERSION_A) is not None
    manifest, _ = read_snapshot(tmp_path / "snapshots", assembled(other))
    assert manifest.versions == {alike: 40}
    for number in begun.missing():
        shutil.copytree(
            tmp_path / "embeddings" / other.run_id / f"partition-{number}", begun.path / f"partition-{number}"
        )
    with pytest.raises(Refused, match="mixed_versions"):
        begun.assemble(tmp_path / "snapshots", tower_manifest(VERSION_A))


def test_a_run_of_fewer_buckets_than_the_tier_has_now_is_begun_anew(tmp_path: Path) -> None:
    job = Job(tmp_path, tier=SLOW.model_copy(update={"first_bucket": 50}))
    job.stopped = lambda: bool(job.shown) and job.shown[-1].done >= 2
    first = job.run()
    assert first is not None and first.missing == [2, 3]
    job.stopped, job.tier = lambda: False, SLOW.model_copy(update={"first_bucket": 20})
    with pytest.raises(Refused, match="no_run"):
        job.embedder().assemble()

    second = job.run()

    pins = np.arange(40)
    assert set(job.snapshot(assembled(second))[1]) == set(pins[in_tier(pins, job.tier)].tolist())
    assert second is not None and second.run_id != first.run_id
    assert EmbeddingRuns(tmp_path / "embeddings").names(VERSION_A) == [second.run_id]


@pytest.mark.parametrize("only_assemble", [False, True])
def test_what_was_assembled_is_told_though_another_process_begins_the_next_run_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_assemble: bool
) -> None:
    expected = assembled(Job(tmp_path / "alone").run())
    job, begun = Job(tmp_path / "shared"), []
    if only_assemble:
        job.run()
    real = RunDirectory.assemble

    def assemble(run: RunDirectory, snapshots: Path, tower: TowerManifest) -> AssembledRun:
        done = real(run, snapshots, tower)
        begun.append(job.embedder()._begin(job.source.spans()).path.name)
        return done

    monkeypatch.setattr(RunDirectory, "assemble", assemble)
    done = job.embedder().assemble() if only_assemble else job.run()

    assert assembled(done) == expected
    assert done is not None and (done.missing, done.rows) == ([], 40)
    assert EmbeddingRuns(tmp_path / "shared" / "embeddings").names(VERSION_A) == begun != [done.run_id]


def test_a_half_written_shard_is_nothing(tmp_path: Path) -> None:
    job = Job(tmp_path)
    expected = assembled(job.run())
    (run,) = EmbeddingRuns(tmp_path / "embeddings").of(f"slow-{VERSION_A[:12]}")
    (run.path / "ASSEMBLED").unlink()
    (run.path / "partition-2" / "READY").unlink()
    shutil.rmtree(tmp_path / "snapshots")

    with pytest.raises(Refused):
        job.embedder().assemble()
    shutil.rmtree(run.path / "partition-2")

    assert assembled(job.run()) == expected


def test_a_tier_without_pins_is_refused_and_leaves_no_run_behind(tmp_path: Path) -> None:
    job = Job(tmp_path, source=StatesInMemory(2))

    with pytest.raises(Refused) as refused:
        job.run()

    assert refused.value.code == "empty"
    job.source = filled(4, 2)
    assert job.snapshot(assembled(job.run()))[0].rows == 4


def test_a_realtime_tier_waits_for_its_workers_and_says_for_which_partitions(tmp_path: Path) -> None:
    job = Job(tmp_path, tier=Tier(name="realtime"))
    job.source.said = {0: checkpoint(0, VERSION_A), 1: checkpoint(1, VERSION_B)}

    with pytest.raises(RetryableError, match=r"partition 1: the checkpoint of worker-0.*partition 2-3: no"):
        job.run()

    assert "partition 1" in job.shown[0].waiting
    assert not (tmp_path / "embeddings").exists()
    job.source.said = {number: checkpoint(number, VERSION_A) for number in range(4)}
    assert job.snapshot(assembled(job.run()))[0].source == "batch"


def test_the_status_counts_and_foresees(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.source.on_read = lambda partition: setattr(job, "now", job.now + 1.0)

    job.run()

    half = next(one for one in job.shown if one.done == 2)
    # Two partitions of ten rows, read three at a time, a second each: 8 s; as much is left.
    assert (half.state_rows, half.rows, half.eta_seconds) == (20, 20, 8.0)
    assert (job.shown[-1].done, job.shown[-1].eta_seconds) == (4, 0.0)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.streams.test_batch_embedder import Job, filled
import streams.embedding_runs as runs
import schemas.artefacts as artefacts

target, wanted = sys.argv[2], int(sys.argv[3])
count = [0]
def killing(module, name):
    real = getattr(module, name)
    def wrapped(*arguments, **named):
        count[0] += 1
        if count[0] == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    setattr(module, name, wrapped)
killing(runs, target)
Job(Path(sys.argv[1])).run()
"""


@pytest.mark.parametrize(
    ("boundary", "nth"),
    [
        ("publish_directory", 1),
        ("write_vectors", 1),
        ("write_manifest", 3),
        ("publish_staged", 1),
        ("publish_staged", 4),
        ("write_snapshot", 1),
        ("write_atomic", 1),
    ],
)
def test_killed_anywhere_the_next_process_goes_on_to_the_same_snapshot(
    tmp_path: Path, boundary: str, nth: int
) -> None:
    expected = assembled(Job(tmp_path / "whole").run())
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path / "killed"), boundary, str(nth)],
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL
    finished = len(list((tmp_path / "killed").glob("embeddings/*/partition-*/READY")))
    read: list[int] = []
    job = Job(tmp_path / "killed")
    job.source.on_read = read.append

    assert assembled(job.run()) == expected
    assert len(set(read)) == 4 - finished
    rows = [read_snapshot(tmp_path / name / "snapshots", expected)[1] for name in ("whole", "killed")]
    assert np.array_equal(rows[0].vectors, rows[1].vectors)
