"""Runs of the batch embedder on disk: begun once, worked on by any number of processes, assembled once.

`root/<run>/` appears by one rename with the manifest that says what is embedded; each partition's shard
appears in it by one rename; `ASSEMBLED` names the snapshot that holds them all. A process that dies
leaves finished shards and nothing else. A run that is not assembled is gone on with by whoever comes, unless
the tier was declared anew since: its finished shards would lack Pins. A run is deleted by one rename too, to
a hidden name; what a killed deletion leaves is swept when a run begins.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from index.row_files import ATTRIBUTES_FILE, VECTORS, read_rows, write_attributes, write_vectors
from index.snapshots import SnapshotRows, write_snapshot
from schemas.artefacts import (
    READY,
    file_entry,
    publish_directory,
    publish_staged,
    read_manifest,
    staged,
    verify_files,
    write_atomic,
    write_manifest,
)
from schemas.embedding_runs import AssembledRun, EmbeddingRun, EmbeddingShard
from schemas.errors import Refused
from schemas.file_locks import locked
from schemas.manifests import TowerManifest
from schemas.tiers import Tier
from schemas.topics import PIN_FEATURES

from .joined_shards import joined_rows, run_hour_ms

ASSEMBLED = "ASSEMBLED"
_LOCK = ".lock"
_DELETING = ".deleting-"
_DELETE_TRIES = 5
"""Two may delete runs of one name at once, and find each other's remains in their way."""
_NAME = re.compile(r"(?P<prefix>[a-z][a-z0-9-]*-[0-9a-f]{12})-(?P<number>[0-9]{4,})")


def run_prefix(tier: str, tower_version: str) -> str:
    """What the ids of a tier's runs with one tower begin with."""
    return f"{tier}-{tower_version[:12]}"


class RunDirectory:
    """One run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path, EmbeddingRun)

    @property
    def partitions(self) -> list[int]:
        """All partitions, ascending."""
        return sorted(self.manifest.ends)

    def missing(self) -> list[int]:
        """Partitions without a finished shard."""
        return [number for number in self.partitions if not (self._shard(number) / READY).is_file()]

    def write_shard(self, rows: SnapshotRows, shard: EmbeddingShard) -> None:
        """Put a partition's rows into their place, atomically. Whoever was there first is left there.

        Raises Refused (`run_gone`) when the run was deleted meanwhile.
        """
        with self._there(), staged(self.path) as directory:
            write_vectors(directory, rows.vectors)
            write_attributes(directory, rows)
            files = [file_entry(directory / name) for name in (VECTORS, ATTRIBUTES_FILE)]
            write_manifest(directory, shard.model_copy(update={"files": files}))
            try:
                publish_staged(directory, self._shard(shard.partition))
            except Refused as refused:
                # Another process was given the same partition; it read up to another end.
                if refused.code != "already_exists":
                    raise
                self.read_shard(shard.partition)

    def read_shard(self, partition: int) -> EmbeddingShard:
        """A finished shard's manifest, its files checked. Raises Refused."""
        shard = read_manifest(self._shard(partition), EmbeddingShard)
        verify_files(self._shard(partition), shard.files)
        return shard

    def shards(self) -> list[EmbeddingShard]:
        """Manifests of the finished shards; their files are not looked at.

        Raises Refused (`run_gone`) when the run was deleted meanwhile.
        """
        with self._there():
            lacking = set(self.missing())
            numbers = [number for number in self.partitions if number not in lacking]
            return [read_manifest(self._shard(number), EmbeddingShard) for number in numbers]

    def assembled(self) -> AssembledRun | None:
        """What came of it, once it is over."""
        try:
            return AssembledRun.model_validate_json((self.path / ASSEMBLED).read_bytes())
        except FileNotFoundError:
            return None

    def assemble(self, snapshots: Path, tower: TowerManifest) -> AssembledRun:
        """Join all shards into one snapshot. Done twice, or by two at once, it is the same snapshot.

        Raises Refused: `shards_missing`, `empty`, `run_gone`, or what is wrong with a shard.
        """
        with self._said_when_gone(), locked(self.path / _LOCK):
            self._check_there()  # nobody deletes it while the lock is held, nor what is done in here then
            if (before := self.assembled()) is not None:
                return before
            if missing := self.missing():
                raise Refused(
                    "shards_missing",
                    f"a shard of each of {len(self.partitions)} partitions in {self.path}",
                    f"none of {', '.join(map(str, missing))}",
                    "`skewless embed` embeds what is missing; finished shards are kept.",
                )
            shards = [self.read_shard(number) for number in self.partitions]
            parts = [read_rows(self._shard(number)) for number in self.partitions]
            rows = joined_rows(parts, tower.tower_version)
            if not len(rows):
                raise Refused(
                    "empty",
                    f"Pins of tier {self.manifest.tier} on {PIN_FEATURES.name}",
                    "none that the tower could embed",
                    "Workers write states there within SKEWLESS_STATE_FLUSH_SECONDS: embed again then.",
                )
            snapshot = write_snapshot(
                snapshots,
                rows,
                tier=self.manifest.tier,
                hour_ms=run_hour_ms(self.manifest, rows),
                clock=self.manifest.clock,
                pin_inputs=list(tower.pin_inputs),
                offsets={PIN_FEATURES.name: {one.partition: one.end_offset for one in shards}},
                source="batch",
            )
            done = AssembledRun(
                snapshot_id=snapshot.snapshot_id,
                rows=snapshot.rows,
                failed=sum(len(one.failed) for one in shards),
                unreadable=sum(len(one.unreadable) for one in shards),
            )
            write_atomic(self.path / ASSEMBLED, done.model_dump_json().encode())
            return done

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Refuses (`run_gone`) what is done in here to a run that was deleted before its end."""
        with self._said_when_gone():
            yield
        # The directory, made anew under a writer that had just looked, would hold this one shard.
        self._check_there()

    @contextmanager
    def _said_when_gone(self) -> Iterator[None]:
        """What fails in here because the run was deleted is refused as `run_gone`."""
        self._check_there()
        try:
            yield
        except Exception:  # a missing directory is of another class in each library
            self._check_there()
            raise

    def _check_there(self) -> None:
        if not (self.path / READY).is_file():
            raise Refused(
                "run_gone",
                f"run {self.path.name} to be there",
                "nothing: it was deleted, as a rollover that is aborted does",
                "Start the rollover again, or embed without it: a new run begins.",
            )

    def _shard(self, partition: int) -> Path:
        return self.path / f"partition-{partition}"


class EmbeddingRuns:
    """All runs under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def of(self, prefix: str) -> list[RunDirectory]:
        """The runs of one tier and tower, oldest first. One that is damaged is refused."""
        found = sorted(
            (int(match["number"]), match.string)
            for match in self._matches()
            if match["prefix"] == prefix and self._is_run(match.string)
        )
        return [RunDirectory(self.root / name) for _, name in found]

    def names(self, tower_version: str) -> list[str]:
        """Names of the runs with one tower, of any tier."""
        tail = f"-{tower_version[:12]}"
        ours = [match.string for match in self._matches() if match["prefix"].endswith(tail)]
        return sorted(name for name in ours if self._is_run(name))

    def _matches(self) -> list[re.Match[str]]:
        """Everything that has the name of a run, wrecks too."""
        paths = self.root.iterdir() if self.root.is_dir() else iter(())
        return [match for path in paths if (match := _NAME.fullmatch(path.name)) is not None]

    def _is_run(self, name: str) -> bool:
        return (self.root / name / READY).is_file()

    def unfinished(self, tier: Tier, tower_version: str) -> RunDirectory | None:
        """The run to go on with: the newest, if it is not over and of the tier as it is declared."""
        newest = self.newest(tier, tower_version)
        return newest if newest is not None and newest.assembled() is None else None

    def newest(self, tier: Tier, tower_version: str) -> RunDirectory | None:
        """The newest run, unless it is of other buckets or of another policy than the tier has now."""
        runs = self._with(tier.name, tower_version)
        return runs[-1] if runs and runs[-1].manifest.slice == tier else None

    def _with(self, tier: str, tower_version: str) -> list[RunDirectory]:
        # Names hold the beginning of a version; whose run it is its manifest says.
        runs = self.of(run_prefix(tier, tower_version))
        return [one for one in runs if one.manifest.tower_version == tower_version]

    def begin(self, plan: EmbeddingRun) -> RunDirectory:
        """Begin this run, whatever number it says, or go on with one that another process has just begun.

        Older runs of the same tier and tower are deleted. They are over, and their snapshots are what they
        were for; or they lack Pins of the tier as it is declared now.
        """
        prefix = run_prefix(plan.tier, plan.tower_version)
        with locked(self.root / _LOCK):
            if (known := self.unfinished(plan.slice, plan.tower_version)) is not None:
                return known
            self._sweep()
            taken = [int(match["number"]) for match in self._matches() if match["prefix"] == prefix]
            number = 1 + max(taken, default=0)
            plan = plan.model_copy(update={"run_id": f"{prefix}-{number:04d}"})
            publish_directory(self.root / plan.run_id, lambda directory: write_manifest(directory, plan))
            for one in self._with(plan.tier, plan.tower_version)[:-1]:
                self.discard(one.path.name)
        return RunDirectory(self.root / plan.run_id)

    def discard(self, name: str) -> None:
        """Delete a run, after whoever assembles it. It is gone by one rename, whatever comes in between.

        Makes nothing: on a full disk there is no room for a directory. Raises OSError.
        """
        path, grave = self.root / name, self.root / f"{_DELETING}{name}"
        for left in reversed(range(_DELETE_TRIES)):
            if not path.is_dir():
                break
            if grave.exists():  # left by a deletion that was killed
                shutil.rmtree(grave, ignore_errors=True)
            try:
                with locked(path / _LOCK):
                    path.rename(grave)
            except FileNotFoundError:
                pass  # somebody else has deleted it
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not left:
                    raise
            else:
                break  # a directory that is there now is a new run's, which took the number
        shutil.rmtree(grave, ignore_errors=True)

    def discard_assembled(self, tower_version: str) -> None:
        """Delete the runs with one tower that are over: their snapshots are what they were for."""
        for name in self.names(tower_version):
            if (self.root / name / ASSEMBLED).is_file():
                self.discard(name)

    def discard_old(self, tower_version: str, retired_ms: int) -> None:
        """Delete what runs a tower has left that retired then. One that somebody began since goes on."""
        for name in self.names(tower_version):
            with suppress(Refused):  # damaged: somebody's evidence
                run = RunDirectory(self.root / name)
                is_left = run.assembled() is not None or run.manifest.started_ms < retired_ms
                if run.manifest.tower_version == tower_version and is_left:
                    self.discard(name)

    def _sweep(self) -> None:
        """What deletions that were killed have left. A run has READY from its first moment on."""
        wrecks = [self.root / match.string for match in self._matches() if not self._is_run(match.string)]
        for path in [*self.root.glob(f"{_DELETING}*"), *wrecks]:
            shutil.rmtree(path, ignore_errors=True)
