"""LIVE: which tower versions the enrichment worker embeds with, the serving one first."""

import json
from pathlib import Path

from schemas.artefacts import write_atomic
from schemas.errors import Refused

_FILE = "LIVE"


def read_live_towers(root: Path) -> list[str]:
    """Tower versions in LIVE; empty when there is none yet.

    Raises Refused when the file is not a JSON list of tower versions.
    """
    try:
        text = (root / _FILE).read_bytes()
    except FileNotFoundError:
        return []
    try:
        versions = json.loads(text)
    except ValueError:
        versions = None
    if not isinstance(versions, list) or not all(isinstance(one, str) and len(one) == 64 for one in versions):
        raise Refused(
            "live_towers",
            expected="a JSON list of tower versions (64 hex digits each)",
            came=repr(text[:80]),
            fix=f"Write {root / _FILE} with `skewless towers live VERSION …`.",
        )
    return versions


def write_live_towers(root: Path, versions: list[str]) -> None:
    """Replace LIVE atomically. Raises Refused when a version has no checkpoint here, or stands twice."""
    missing = [version for version in versions if not (root / version / "manifest.json").is_file()]
    if missing or len(set(versions)) != len(versions) or not versions:
        raise Refused(
            "live_towers",
            expected="one or more different tower versions whose checkpoints are in " + str(root),
            came=", ".join(missing or versions) or "none",
            fix="`skewless towers list` shows the checkpoints that are there.",
        )
    write_atomic(root / _FILE, (json.dumps(versions) + "\n").encode("ascii"))
