"""Artefacts (releases, towers) to and from an object store, file by file.

Up: the files, then `manifest.json`, then `READY`; an artefact without READY is unfinished. Down: into a
hidden directory beside its place, every file checked against the manifest, then published as if it had
been built here. What an interruption left there is taken up again.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from schemas.artefacts import MANIFEST, READY, file_entry, publish_staged, read_manifest
from schemas.errors import Refused
from schemas.manifests import FileEntry, ReleaseManifest, TowerManifest

from .object_store import Listed, Objects

_RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 4
_STAGING = ".mirror"
_LOCK = ".mirror.lock"


Artefact = ReleaseManifest | TowerManifest
ManifestT = TypeVar("ManifestT", ReleaseManifest, TowerManifest)


def sizes_below(prefix: str, listed: list[Listed]) -> dict[str, int]:
    """File name -> size of what a listing has directly below `prefix/`."""
    return {one.key.removeprefix(f"{prefix}/"): one.size_bytes for one in listed}


def upload(objects: Objects, prefix: str, directory: Path, manifest: Artefact) -> bool:
    """Put a finished artefact below `prefix`; what is there already is left alone. Says if anything was sent.

    The caller has checked the files. Raises Refused (`already_exists`) when another artefact has the name.
    """
    there = sizes_below(prefix, objects.list(prefix))
    ready = (directory / READY).read_bytes()
    if READY in there:
        _refuse_unless_same(objects, prefix, ready)
    names = [*(entry.name for entry in manifest.files), MANIFEST]
    missing = [name for name in names if there.get(name) != (directory / name).stat().st_size]
    for name in missing:
        objects.put(f"{prefix}/{name}", directory / name)
    if READY not in there:
        objects.put(f"{prefix}/{READY}", ready)
    return bool(missing) or READY not in there


def _refuse_unless_same(objects: Objects, prefix: str, ready: bytes) -> None:
    found = objects.get(f"{prefix}/{READY}")
    if found is not None and found.data != ready:
        raise Refused(
            "already_exists",
            f"no {prefix} in the store, or one with the same manifest",
            f"another {READY} there",
            "Find out who wrote it; a release is never replaced.",
        )


def remote_manifest(objects: Objects, prefix: str, model: type[ManifestT], scratch: Path) -> ManifestT:
    """The manifest of a finished artefact in the store, by way of files in `scratch`. Raises Refused."""
    scratch.mkdir(parents=True, exist_ok=True)
    for name in (READY, MANIFEST):
        found = objects.get(f"{prefix}/{name}")
        if found is None:
            code = "not_ready" if name == READY else "missing_object"
            fix = "It is unfinished, was deleted, or the id is wrong: see `skewless release list`."
            raise Refused(code, f"the object {prefix}/{name}", "no such object", fix)
        (scratch / name).write_bytes(found.data)
    return read_manifest(scratch, model)


def check_sizes(objects: Objects, prefix: str, manifest: Artefact) -> None:
    """Raises Refused when a file of a finished artefact is not in the store, or not of its size."""
    there = sizes_below(prefix, objects.list(prefix))
    fix = "Publish it again from where it was built, or go back to another."
    for entry in manifest.files:
        size = there.get(entry.name)
        if size is None:
            raise Refused("missing_file", f"the object {prefix}/{entry.name}", "no such object", fix)
        if size != entry.size_bytes:
            expected = f"{entry.size_bytes} bytes in the object {prefix}/{entry.name}"
            raise Refused("wrong_size", expected, f"{size} bytes", fix)


def download(objects: Objects, prefix: str, final: Path, model: type[ManifestT]) -> None:
    """Bring the artefact below `prefix` to `final`, complete and checked, or not at all.

    A file that an interrupted download left goes on where it stopped. Raises Refused that names the
    object which is missing or not what the manifest promises.
    """
    with _one_at_a_time(final.parent) as staging:
        if (final / READY).is_file():
            return
        stage = staging / final.name
        manifest = remote_manifest(objects, prefix, model, stage)
        check_sizes(objects, prefix, manifest)
        for entry in manifest.files:
            _download_file(objects, f"{prefix}/{entry.name}", stage / entry.name, entry)
        publish_staged(stage, final)
        shutil.rmtree(staging)  # with what interrupted downloads of others left: the lock says they are over


@contextmanager
def _one_at_a_time(parent: Path) -> Iterator[Path]:
    staging = parent / _STAGING
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        staging.mkdir(exist_ok=True)
        yield staging


def _download_file(objects: Objects, key: str, path: Path, entry: FileEntry) -> None:
    resumed = path.is_file()
    if resumed and path.stat().st_size > entry.size_bytes:
        path.unlink()
    _fetch_rest(objects, key, path, entry.size_bytes)
    if file_entry(path).sha256 == entry.sha256:
        return
    if resumed:  # what was there before may have been the damaged part
        path.unlink()
        _fetch_rest(objects, key, path, entry.size_bytes)
    found = file_entry(path).sha256
    if found != entry.sha256:
        path.unlink()
        fix = "The object was damaged: publish the release again from where it was built, or roll back."
        raise Refused("bad_checksum", f"sha256 {entry.sha256} of the object {key}", found, fix)


def _fetch_rest(objects: Objects, key: str, path: Path, size_bytes: int) -> None:
    """Append to `path` what it lacks of the object."""
    with path.open("ab") as file:
        while (start := file.tell()) < size_bytes:
            ends = min(size_bytes, start + _RANGE_BYTES * _RANGES_AT_ONCE)
            starts = list(range(start, ends, _RANGE_BYTES))
            lengths = [min(_RANGE_BYTES, ends - one) for one in starts]
            for part, length in zip(objects.ranges(key, starts, lengths), lengths, strict=True):
                if len(part) != length:
                    expected = f"{size_bytes} bytes in the object {key}"
                    raise Refused("wrong_size", expected, "fewer", "Publish the release again.")
                file.write(part)
