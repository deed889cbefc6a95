"""An artefact appears whole or not at all, and any later change to it is seen."""

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from schemas.artefacts import (
    MANIFEST,
    READY,
    append_durably,
    file_entry,
    manifest_bytes,
    naming,
    publish_directory,
    read_manifest,
    staged,
    sweep_unheld,
    verify_files,
    write_atomic,
    write_manifest,
)
from schemas.errors import Refused
from schemas.manifests import FileEntry, Manifest


class Note(Manifest):
    """A small artefact's manifest."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    text: str
    files: list[FileEntry]


def _write(text: str, content: bytes = b"content") -> Note:
    return Note(
        text=text,
        files=[FileEntry(name="data", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())],
    )


def _publish(final: Path, text: str = "hello", content: bytes = b"content") -> Note:
    note = _write(text, content)

    def write(directory: Path) -> None:
        (directory / "data").write_bytes(content)
        write_manifest(directory, note)

    publish_directory(final, write)
    return note


def _reseal(directory: Path, manifest: bytes) -> None:
    (directory / MANIFEST).write_bytes(manifest)
    (directory / READY).write_text(hashlib.sha256(manifest).hexdigest() + "\n")


def test_a_published_directory_reads_back(tmp_path: Path) -> None:
    note = _publish(tmp_path / "a" / "note")
    assert read_manifest(tmp_path / "a" / "note", Note) == note
    verify_files(tmp_path / "a" / "note", note.files)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["note"]


def test_an_entry_is_name_size_and_sha256(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(content)
    assert file_entry(tmp_path / "big") == FileEntry(
        name="big", size_bytes=3 << 20, sha256=hashlib.sha256(content).hexdigest()
    )


def test_ready_is_not_there_while_the_directory_is_written(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def write(directory: Path) -> None:
        write_manifest(directory, _write("x"))
        (directory / "data").write_bytes(b"content")
        seen.append(sorted(path.name for path in directory.iterdir()))
        assert not (tmp_path / "note").exists()
        assert directory.name.startswith(".")

    publish_directory(tmp_path / "note", write)
    assert seen == [["data", MANIFEST]]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "data").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_directory(tmp_path / "note", write)
    assert list(tmp_path.iterdir()) == []


def test_publishing_the_same_again_leaves_the_first_alone(tmp_path: Path) -> None:
    _publish(tmp_path / "note")
    inode = (tmp_path / "note" / "data").stat().st_ino
    _publish(tmp_path / "note")
    assert (tmp_path / "note" / "data").stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_publishing_something_else_under_a_taken_name_is_refused(tmp_path: Path) -> None:
    first = _publish(tmp_path / "note")
    with pytest.raises(Refused, match="already_exists"):
        _publish(tmp_path / "note", text="other")
    assert read_manifest(tmp_path / "note", Note) == first


def test_a_damaged_one_under_the_name_is_not_taken_for_the_same(tmp_path: Path) -> None:
    _publish(tmp_path / "note")
    (tmp_path / "note" / "data").write_bytes(b"cOntent")
    with pytest.raises(Refused, match="already_exists"):
        _publish(tmp_path / "note")


@pytest.mark.parametrize(
    ("damage", "code"), [(b"contenT", "bad_checksum"), (b"conten", "wrong_size"), (None, "missing_file")]
)
def test_a_bad_file_is_named(tmp_path: Path, damage: bytes | None, code: str) -> None:
    note = _publish(tmp_path / "note")
    if damage is None:
        (tmp_path / "note" / "data").unlink()
    else:
        (tmp_path / "note" / "data").write_bytes(damage)
    with pytest.raises(Refused, match="data") as caught:
        verify_files(tmp_path / "note", note.files)
    assert caught.value.code == code


def test_a_directory_without_ready_is_refused(tmp_path: Path) -> None:
    _publish(tmp_path / "note")
    (tmp_path / "note" / READY).unlink()
    with pytest.raises(Refused, match="not_ready"):
        read_manifest(tmp_path / "note", Note)


def test_a_changed_manifest_is_refused(tmp_path: Path) -> None:
    _publish(tmp_path / "note")
    path = tmp_path / "note" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b"hello", b"hallo"))
    with pytest.raises(Refused, match="bad_checksum"):
        read_manifest(tmp_path / "note", Note)


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (b"{", "bad_manifest"),
        (b"[]", "bad_manifest"),
        (b'{"text": "x"}', "bad_manifest"),
        (b'{"text": "x", "files": [], "more": 1}', "bad_manifest"),
        (b'{"text": 1, "files": []}', "bad_manifest"),
        (b'{"text": "x", "files": [], "format": "1"}', "bad_manifest"),
        (b'{"text": "x", "files": [], "format": 2}', "future_format"),
        (b'{"format": 99, "anything": "else"}', "future_format"),
        (
            b'{"text": "x", "files": [{"name": "../x", "size_bytes": 0, "sha256": "' + b"0" * 64 + b'"}]}',
            "bad_manifest",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_safely_is_refused(tmp_path: Path, manifest: bytes, code: str) -> None:
    _publish(tmp_path / "note")
    _reseal(tmp_path / "note", manifest)
    with pytest.raises(Refused) as caught:
        read_manifest(tmp_path / "note", Note)
    assert caught.value.code == code


def test_equal_manifests_are_equal_bytes() -> None:
    assert manifest_bytes(_write("x")) == manifest_bytes(
        Note.model_validate_json(manifest_bytes(_write("x")))
    )


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "CURRENT"
    write_atomic(path, b"one\n")
    with path.open("rb") as reader:
        write_atomic(path, b"two\n")
        assert reader.read() == b"one\n"
    assert path.read_bytes() == b"two\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["CURRENT"]


def test_appending_removes_what_a_crash_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    append_durably(path, b"one")
    path.write_bytes(path.read_bytes() + b"tw")
    append_durably(path, b"three")
    assert path.read_bytes() == b"one\nthree\n"


@pytest.mark.parametrize("name", [READY, MANIFEST])
def test_one_that_is_deleted_while_its_manifest_is_read_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _publish(tmp_path / "note")
    real = Path.read_bytes

    def gone_by_then(path: Path) -> bytes:
        if path.name == name:
            path.unlink()
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", gone_by_then)
    with pytest.raises(Refused, match="not_ready"):
        read_manifest(tmp_path / "note", Note)


def test_only_what_a_writer_holds_is_left_by_a_sweep(tmp_path: Path) -> None:
    script = (
        "import os, signal; from pathlib import Path; from schemas.artefacts import staged\n"
        f"with staged(Path({str(tmp_path)!r})) as directory:\n"
        "    (directory / 'data').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1

    def write(directory: Path) -> None:
        sweep_unheld(tmp_path)
        assert list(tmp_path.iterdir()) == [directory]
        write_manifest(directory, Note(text="hello", files=[]))

    publish_directory(tmp_path / "note", write)
    sweep_unheld(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    assert read_manifest(tmp_path / "note", Note).text == "hello"


def test_a_directory_that_a_sweep_took_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    real = fcntl.flock

    def swept_first(handle: int, operation: int) -> None:
        if not taken:
            taken.extend(path.name for path in tmp_path.iterdir())
            sweep_unheld(tmp_path)
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", swept_first)
    with staged(tmp_path) as directory:
        assert [path.name for path in tmp_path.iterdir()] == [directory.name] != taken
    assert len(taken) == 1 and list(tmp_path.iterdir()) == []


def test_an_error_of_the_disk_names_the_file_and_another_error_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as full, naming(tmp_path / "vectors"):
        Path("/dev/full").write_bytes(b"x")
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path / "vectors"))
    library = RuntimeError("write error in vectors: 983 != 5000 (No space left on device)")
    with pytest.raises(OSError, match="vectors") as full, naming(tmp_path / "vectors", RuntimeError):
        raise library
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="983"), naming(tmp_path / "vectors"):
        raise library
    with pytest.raises(RuntimeError, match="a bug"), naming(tmp_path / "vectors", RuntimeError):
        raise RuntimeError("a bug")
    with pytest.raises(FileNotFoundError) as absent, naming(tmp_path / "vectors"):
        (tmp_path / "absent").read_bytes()
    assert absent.value.filename == str(tmp_path / "absent")
