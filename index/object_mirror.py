"""Artefacts (releases, towers) to and from an object store, file by file.

Up: the files, then `manifest.json`, then `READY`; an artefact without READY is unfinished. Down: into a
hidden directory beside its place, every file checked against the manifest, then published as if it had
been built here. What an interruption left there is taken up again. A copy that is not whole any more is
replaced.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from schemas.artefacts import MANIFEST, READY, file_entry, naming, publish_staged, read_manifest
from schemas.errors import Refused
from schemas.file_locks import locked
from schemas.manifests import FileEntry, ReleaseManifest, TowerManifest

from .local_copies import LocalCopies
from .object_store import Listed, Objects, StoreRefused

log = logging.getLogger(__name__)

_RANGE_BYTES = 8 << 20
_RANGES_AT_ONCE = 4
_STAGING = ".mirror"
_LOCK = ".mirror.lock"


Artefact = ReleaseManifest | TowerManifest
ManifestT = TypeVar("ManifestT", ReleaseManifest, TowerManifest)


def sizes_below(prefix: str, listed: list[Listed]) -> dict[str, int]:
    """File name -> size of what a listing has directly below `prefix/`."""
    return {one.key.removeprefix(f"{prefix}/"): one.size_bytes for one in listed}


def is_finished(objects: Objects, prefix: str) -> bool:
    """Whether an artefact below `prefix` has its READY."""
    return READY in sizes_below(prefix, objects.list(prefix))


def is_whole(directory: Path, model: type[ManifestT]) -> bool:
    """Whether an artefact lies here finished, under its own name, with every file in its size.

    The files' checksums are not looked at: whoever loads or publishes it checks those.
    """
    try:
        manifest = read_manifest(directory, model)
        sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    except (Refused, FileNotFoundError):
        return False
    name = manifest.release_id if isinstance(manifest, ReleaseManifest) else manifest.tower_version
    return name == directory.name and all(sizes.get(one.name) == one.size_bytes for one in manifest.files)


def upload(
    objects: Objects, prefix: str, directory: Path, manifest: Artefact, *, read_back: bool = False
) -> bool:
    """Put a finished artefact below `prefix`. Says if anything was sent.

    Without READY there everything is sent: what lies there may be of anybody, in any state. With it only
    what is missing or of another size; with `read_back` also what has other bytes.
    The caller has checked the files. Raises Refused (`already_exists`) when another artefact has the name.
    """
    there = sizes_below(prefix, objects.list(prefix))
    ready = (directory / READY).read_bytes()
    finished = READY in there and _has_our_ready(objects, prefix, directory)
    # READY is the sha256 of the manifest, so it stands for an entry of it.
    sealed = {MANIFEST: ready.decode().strip()}
    wanted = {entry.name: entry.sha256 for entry in manifest.files} | sealed
    sent = [
        name
        for name, sha256 in wanted.items()
        if not finished
        or there.get(name) != (directory / name).stat().st_size
        or (read_back and _has_other_bytes(objects, f"{prefix}/{name}", there[name], sha256))
    ]
    for name in sent:
        objects.put(f"{prefix}/{name}", directory / name)
        if finished:
            log.warning("%s/%s was damaged in the store: it was put again", prefix, name)
    if not finished:
        objects.put(f"{prefix}/{READY}", ready)
    return bool(sent)


def _has_our_ready(objects: Objects, prefix: str, directory: Path) -> bool:
    """False when READY went away or is damaged. Raises Refused when it is another artefact's."""
    found = objects.get(f"{prefix}/{READY}")
    if found is None or found.data == (directory / READY).read_bytes():
        return found is not None
    manifest = objects.get(f"{prefix}/{MANIFEST}")
    if manifest is not None and manifest.data == (directory / MANIFEST).read_bytes():
        return False  # the same artefact: it is READY that was damaged
    raise Refused(
        "already_exists",
        f"no {prefix} in the store, or one with the same manifest",
        f"another {READY} there",
        "Find out who wrote it; a release is never replaced.",
    )


def _has_other_bytes(objects: Objects, key: str, size_bytes: int, sha256: str) -> bool:
    """Read an object back and compare.

    NOTE: its ETag would be cheaper and says nothing: of an upload in parts, or an encrypted object, it is
    no digest of the content, and a store whose disk lost a byte still gives the old one.
    """
    digest = hashlib.sha256()
    try:
        for part in _parts(objects, key, 0, size_bytes):
            digest.update(part)
    except StoreRefused:
        raise
    except Refused:  # shorter than it was, or gone
        return True
    return digest.hexdigest() != sha256


def remote_manifest(objects: Objects, prefix: str, model: type[ManifestT], scratch: Path) -> ManifestT:
    """The manifest of a finished artefact in the store, by way of files in `scratch`. Raises Refused."""
    scratch.mkdir(parents=True, exist_ok=True)
    for name in (READY, MANIFEST):
        found = objects.get(f"{prefix}/{name}")
        if found is None:
            code = "not_ready" if name == READY else "missing_object"
            fix = "It is unfinished, was deleted, or the id is wrong: see `skewless release list`."
            raise Refused(code, f"the object {prefix}/{name}", "no such object", fix)
        with naming(scratch / name):
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

    A file that an interrupted download left goes on where it stopped; what was left of other artefacts is
    deleted. A copy at `final` that is not whole is replaced. Raises Refused that names the object which is
    missing or not what the manifest promises.
    """
    with _one_at_a_time(final.parent) as staging:
        for left in staging.iterdir():
            if left.name != final.name:
                shutil.rmtree(left, ignore_errors=True)
        if is_whole(final, model):
            return
        stage = staging / final.name
        manifest = remote_manifest(objects, prefix, model, stage)
        check_sizes(objects, prefix, manifest)
        for entry in manifest.files:
            _download_file(objects, f"{prefix}/{entry.name}", stage / entry.name, entry)
        if final.exists():
            log.warning("%s was not whole any more: it was fetched again", final)
            LocalCopies(final.parent).drop([final.name])
        publish_staged(stage, final)
        shutil.rmtree(staging)


@contextmanager
def _one_at_a_time(parent: Path) -> Iterator[Path]:
    staging = parent / _STAGING
    with locked(parent / _LOCK):
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
        for part in _parts(objects, key, file.tell(), size_bytes):
            with naming(path):
                file.write(part)


def _parts(objects: Objects, key: str, start: int, size_bytes: int) -> Iterator[bytes]:
    """The object from `start` on, in order. Raises Refused (`wrong_size`) when it is shorter."""
    while start < size_bytes:
        ends = min(size_bytes, start + _RANGE_BYTES * _RANGES_AT_ONCE)
        starts = list(range(start, ends, _RANGE_BYTES))
        lengths = [min(_RANGE_BYTES, ends - one) for one in starts]
        for part, length in zip(objects.ranges(key, starts, lengths), lengths, strict=True):
            if len(part) != length:
                expected = f"{size_bytes} bytes in the object {key}"
                raise Refused("wrong_size", expected, "fewer", "Publish the release again.")
            yield part
        start = ends
