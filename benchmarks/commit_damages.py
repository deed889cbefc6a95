"""Files of a store half-written, cut short and bit-flipped, one at a time; a reader must name the file."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.contents import read_release
from schemas.errors import Refused

from .commit_world import CommitWorld

Damage = Callable[[bytes], bytes]
_FLIPS = 8


@dataclass(frozen=True)
class DamageResult:
    """How many damaged stores a reader refused with the file's name, and which it did not."""

    tried: int
    refused: int
    missed: tuple[str, ...]


def damage_all(data: Path, seed: int, most: int | None = None) -> DamageResult:
    """Damage a copy of a store of two releases in every way; read the live release and the trail of each."""
    world = CommitWorld.on_disk(data / "intact")
    world.publish(world.build(1, 1, "ivf"))
    world.publish(world.build(2, 2, "ivf"))
    _unshare(data / "intact")
    cases = list(_cases(world, seed))[:most]
    missed = []
    for number, (name, how, damage) in enumerate(cases):
        copy = CommitWorld.on_disk(data / str(number))
        shutil.copytree(data / "intact", copy.data)
        path = copy.data / "releases" / name
        path.write_bytes(damage(path.read_bytes()))
        said = _refusal(copy)
        if path.name not in said:
            missed.append(f"{how} {name}: {said or 'accepted'}")
        shutil.rmtree(copy.data)
    return DamageResult(len(cases), len(cases) - len(missed), tuple(missed))


def _refusal(world: CommitWorld) -> str:
    try:
        current = world.releases.current()
        if current is not None:
            read_release(world.releases.directory(current))
        world.releases.audit()
    except Refused as refused:
        return str(refused)
    return ""


def _cases(world: CommitWorld, seed: int) -> Iterator[tuple[str, str, Damage]]:
    live = world.releases.current()
    assert live is not None
    files = sorted(path.name for path in world.releases.directory(live).iterdir())
    random = np.random.default_rng(seed)
    for name in [*(f"{live}/{file}" for file in files), "CURRENT", "audit.jsonl", "audit.sha256"]:
        size = (world.releases.root / name).stat().st_size
        yield name, "empty", lambda content: b""
        yield name, "half of", lambda content: content[: len(content) // 2]
        # By two: CURRENT without its line break, as an editor may leave it, still says everything.
        yield name, "cut short", lambda content: content[:-2]
        yield name, "half-written", lambda content: content[: len(content) // 2].ljust(len(content), b"\0")
        for place in {0, size - 1, *random.integers(0, size, _FLIPS).tolist()}:
            yield name, f"bit {place} flipped in", _flip(place, int(random.integers(8)))


def _flip(place: int, bit: int) -> Damage:
    def flip(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        return bytes(changed)

    return flip


def _unshare(data: Path) -> None:
    """Releases share files with their snapshots; what is damaged here is the release's own."""
    for path in (data / "releases").glob("*/*"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    shutil.rmtree(data / "snapshots")
