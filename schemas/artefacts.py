"""How an artefact (a checkpoint, a snapshot, a release) gets onto disk and is trusted again.

An artefact is a directory of plain files with a `manifest.json` that lists each with size and sha256,
and a `READY` file, written last, that holds the sha256 of the manifest: one flipped byte anywhere is
seen before anything is parsed. It appears by one `rename`, so a crash leaves all of it or nothing.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import Refused
from .manifests import FileEntry

MANIFEST = "manifest.json"
READY = "READY"
STAGED_PREFIX = ".staged-"
"""Directories that are being written; a killed writer leaves one behind, for `sweep_unheld`."""

_CHUNK_BYTES = 1 << 20
"""Large enough that hashing releases the interpreter lock and a serving thread keeps running."""

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

ManifestT = TypeVar("ManifestT", bound=BaseModel)


@contextmanager
def naming(path: Path, *of_library: type[Exception]) -> Iterator[None]:
    """While writing `path`: let an error of the disk's out as an OSError that names it.

    The system's own names nothing ("No space left on device"), and libraries write in C or Rust and raise
    errors `of_library` that hold the system's words.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    except of_library as error:
        for number in _DISK_ERRORS:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise


def file_entry(path: Path) -> FileEntry:
    """Name, size and sha256 of a file, read in chunks."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return FileEntry(name=path.name, size_bytes=size, sha256=digest.hexdigest())


def verify_files(directory: Path, entries: Sequence[FileEntry]) -> None:
    """Check every file against its entry: presence, then size, then sha256.

    Raises Refused with `missing_file`, `wrong_size` or `bad_checksum`, naming the file.
    """
    fix = "The artefact was damaged after it was written: build it again, or go back to the one before."
    for entry in entries:
        path = directory / entry.name
        if not path.is_file():
            raise Refused("missing_file", f"{entry.name} in {directory.name}", "no such file", fix)
        size = path.stat().st_size
        if size != entry.size_bytes:
            raise Refused("wrong_size", f"{entry.size_bytes} bytes in {entry.name}", f"{size} bytes", fix)
    for entry in entries:
        found = file_entry(directory / entry.name).sha256
        if found != entry.sha256:
            raise Refused("bad_checksum", f"sha256 {entry.sha256} of {entry.name}", found, fix)


def manifest_bytes(manifest: BaseModel) -> bytes:
    """JSON with sorted keys: equal manifests are equal bytes."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def write_manifest(directory: Path, manifest: BaseModel) -> None:
    """Put `manifest.json` into a directory that is being staged."""
    with naming(directory / MANIFEST):
        (directory / MANIFEST).write_bytes(manifest_bytes(manifest))


def read_manifest(directory: Path, model: type[ManifestT]) -> ManifestT:
    """The manifest of a finished artefact. The files that it lists are not looked at (`verify_files`).

    Raises Refused: `not_ready`, `missing_file`, `bad_checksum`, `bad_manifest` or `future_format`.
    """
    ready, path = directory / READY, directory / MANIFEST
    absent = Refused("not_ready", f"{READY} in {directory}", "none", "It is unfinished or the id is wrong.")
    if not ready.is_file():
        raise absent
    if not path.is_file():
        raise Refused("missing_file", f"{MANIFEST} in {directory.name}", "no such file", "Build it again.")
    try:
        promised, text = ready.read_bytes(), path.read_bytes()
    except FileNotFoundError:  # a clean-up is deleting it this moment
        raise absent from None
    found = _ready_bytes(text)
    if promised != found:
        raise Refused(
            "bad_checksum",
            f"{MANIFEST} of sha256 {promised[:64]!r}, as {READY} says",
            found[:64].decode(),
            f"{MANIFEST} or {READY} of {directory.name} was changed: build it again.",
        )
    return _parse(directory, text, model)


def _parse(directory: Path, text: bytes, model: type[ManifestT]) -> ManifestT:
    known = model.model_fields["format"].default
    came = _format_of(text)
    if came is not None and came > known:
        raise Refused(
            "future_format",
            f"format {known} or older in {directory.name}",
            f"format {came}",
            "It was written by a newer Skewless: upgrade this one, or build it again here.",
        )
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        said = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'text'}: {one['msg']}" for one in details[:3])
        raise Refused(
            "bad_manifest", f"a {model.__name__} in {directory.name}", said, "Build it again."
        ) from error


def _format_of(text: bytes) -> int | None:
    """The `format` of a manifest that may be of any shape; None where there is none to read."""
    try:
        document: Any = json.loads(text)
    except ValueError:
        return None
    value = document.get("format") if isinstance(document, dict) else None
    return value if isinstance(value, int) else None


@contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """A fresh hidden directory inside `parent` to write into; gone afterwards unless it was published.

    It is locked (`flock`) for as long: `sweep_unheld` deletes what nobody holds.
    """
    parent.mkdir(parents=True, exist_ok=True)
    directory, held = _held_directory(parent)
    try:
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(held)


def _held_directory(parent: Path) -> tuple[Path, int]:
    """A new directory and its open, locked descriptor. If a sweep was there before the lock: another one."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=STAGED_PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            # mkdtemp closes it to everyone else; a server may run as another user than the builder.
            directory.chmod(0o755)
            held = os.open(directory, os.O_RDONLY)
            with suppress(OSError):  # some network file systems lock no directory, and so sweep none
                fcntl.flock(held, fcntl.LOCK_EX)
            if directory.is_dir():
                return directory, held
            os.close(held)


def sweep_unheld(parent: Path) -> None:
    """Delete what killed writers left staged in `parent`; what a writer holds is not touched."""
    for path in parent.glob(STAGED_PREFIX + "*"):
        with suppress(OSError):  # its writer is through with it, or it is closed to this user
            handle = os.open(path, os.O_RDONLY)
            try:
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def publish_staged(directory: Path, final: Path) -> None:
    """Make a staged directory durable and give it its final name. READY is written here, last.

    An identical `final` that is already there is left alone.
    Raises Refused (`already_exists`) when it is there with other content or damaged.
    """
    for path in directory.iterdir():
        _fsync(path)
    with naming(directory / READY):
        _write_durably(directory / READY, _ready_bytes((directory / MANIFEST).read_bytes()))
    _fsync(directory)
    try:
        directory.rename(final)
    except OSError:
        # A non-empty directory cannot be renamed over: somebody was here first. Or the renaming was
        # reported as failed and was not: then what was staged is no longer there.
        if not final.is_dir():
            raise
        if directory.is_dir():
            _refuse_unless_same(directory, final)
    _fsync(final.parent)


def publish_directory(final: Path, write: Callable[[Path], None]) -> None:
    """Stage, let `write` fill it (manifest included), and publish it as `final`, atomically."""
    with staged(final.parent) as directory:
        write(directory)
        publish_staged(directory, final)


def _refuse_unless_same(directory: Path, final: Path) -> None:
    for path in sorted(directory.iterdir()):
        other = final / path.name
        if not other.is_file() or file_entry(other) != file_entry(path):
            raise Refused(
                "already_exists",
                f"no {final.name}, or one with the same bytes",
                f"another or a damaged {path.name} in it",
                f"Move {final} away, if nothing uses it, and write it again.",
            )


def write_atomic(path: Path, content: bytes) -> None:
    """Replace a small file so that a reader sees the old or the new content, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        with naming(path):
            _write_durably(temporary, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def append_durably(path: Path, line: bytes) -> None:
    """Append one line and sync it. A line that a crash had cut short before is removed first.

    The caller makes sure that it is the only writer.
    """
    with naming(path), path.open("ab+") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _fsync(path.parent)


def _ready_bytes(manifest: bytes) -> bytes:
    return hashlib.sha256(manifest).hexdigest().encode() + b"\n"


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)
