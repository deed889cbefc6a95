"""A digest beside each line of the audit trail: a line that was changed afterwards is seen.

`audit.sha256` has one line for each of `audit.jsonl`'s: the sha256 over the digest before it and the line.
A trail of before there were digests has none, and gets them with its next move.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from schemas.artefacts import append_durably, write_atomic
from schemas.errors import Refused

_SUFFIX = ".sha256"


def append_digest(trail: Path, line: bytes) -> None:
    """Put down the digest of the line that was just appended to `trail`. The caller is the only writer."""
    path = trail.with_suffix(_SUFFIX)
    lines = trail.read_bytes().split(b"\n")[:-1]
    digests = list(_digests(lines))
    if lines[-1] != line:
        raise RuntimeError("somebody else wrote the trail at the same time")
    if _read(path) == digests[:-1] and len(digests) > 1:
        append_durably(path, digests[-1])
    else:  # none yet, or of a line whose digest a crash prevented
        write_atomic(path, b"".join(digest + b"\n" for digest in digests))


def complete_digests(trail: Path) -> None:
    """Put down the digest that a crash prevented, before the next line comes: only one may be missing.

    Digests that differ from the lines stay as they are: `check_digests` refuses them. The caller is the only
    writer.
    """
    path = trail.with_suffix(_SUFFIX)
    kept = _read(path)
    if kept is None or not trail.exists():
        return
    digests = list(_digests(trail.read_bytes().split(b"\n")[:-1]))
    if kept == digests[:-1] and digests:
        append_durably(path, digests[-1])


def check_digests(trail: Path, lines: Sequence[bytes], *, unfinished: int) -> None:
    """Compare the lines of a trail with their digests.

    `unfinished` of the last lines may lack theirs: a crash came between the two, and before the move.
    Raises Refused (`bad_audit`).
    """
    path = trail.with_suffix(_SUFFIX)
    kept = _read(path)
    if kept is None:
        return
    found = list(_digests(lines))
    fix = f"Restore {trail.name} and its digests from a backup, or move both away to start a new trail."
    for number, (there, here) in enumerate(zip(kept, found, strict=False), start=1):
        if there != here:
            raise Refused("bad_audit", f"line {number} of {trail.name} as {path.name} has it", "another", fix)
    if not len(found) - unfinished <= len(kept) <= len(found):
        expected = f"as many lines in {trail.name} as in {path.name}"
        raise Refused("bad_audit", expected, f"{len(found)} and {len(kept)}", fix)


def _read(path: Path) -> list[bytes] | None:
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return None


def _digests(lines: Sequence[bytes]) -> Iterator[bytes]:
    before = b""
    for line in lines:
        before = hashlib.sha256(before + line).hexdigest().encode()
        yield before
