"""SIGKILL at random moments of cut, build, publish, roll back and clean-up; a reader opens what is left.

`python -m benchmarks.commit_kills DATA [ADDRESS PREFIX]` is the process that is killed from: it imports
once, and forks a publisher for each line that it reads, so that a kill costs milliseconds and not an
import. With the address of an S3 server it publishes there.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from index.object_store import s3_objects
from schemas.errors import Refused

from .commit_world import CommitWorld
from .moto_server import location

ROOT = Path(__file__).parent.parent
ROUNDS = 4
"""The longest that a publisher lives, in rounds of cut, build and publish as they take here and now.

Half as long again whenever `_PATIENCE` publishers in a row got nothing published; less when one got far.
"""
_PATIENCE = 3
_FAR = 8


@dataclass(frozen=True)
class KillResult:
    """After `kills` kills: how often a reader found a complete live release, and an unbroken trail."""

    kills: int
    complete: int
    refusals: tuple[str, ...]
    moves: int
    staged_left: int
    """Directories that a kill in the middle of a build left behind: proof that kills came there."""


def kill_at_random(data: Path, kills: int, seed: int, *s3: str) -> KillResult:
    """Start a publisher, kill it after a random time, read; so often. `s3` is address and prefix."""
    world = _world(data, *s3)
    started = time.monotonic()
    for seed_of_round in range(2):
        world.publish(world.build(seed_of_round))
    longest_seconds = ROUNDS * (time.monotonic() - started) / 2
    chance = random.Random(seed)
    complete, refusals, before, moves, idle = 0, [], 2, 2, 0
    with _forker([str(data), *s3]) as forker:
        for _ in range(kills):
            pid = _fork(forker)
            threading.Event().wait(chance.uniform(0, longest_seconds))
            os.kill(pid, signal.SIGKILL)
            _reaped(forker)
            try:
                # The reader has a disk of its own, as a server has: nothing that was built here helps it.
                complete += _world(data / "reader" if s3 else data, *s3).live_is_complete() is not None
                before, moves = moves, len(world.releases.audit())
                idle = idle + 1 if moves == before else 0
            except Refused as refused:
                refusals.append(str(refused))
            if idle == _PATIENCE:
                longest_seconds, idle = 1.5 * longest_seconds, 0
            elif moves - before > _FAR:
                longest_seconds /= 1.5
    staged = len(list((data / "releases").glob(".staged-*")))
    return KillResult(kills, complete, tuple(refusals), len(world.releases.audit()), staged)


@contextmanager
def _forker(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.commit_kills", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as forker:
        yield forker
        assert forker.stdin is not None
        forker.stdin.close()


def _fork(forker: subprocess.Popen[str]) -> int:
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write("fork\n")
    forker.stdin.flush()
    return int(forker.stdout.readline())


def _reaped(forker: subprocess.Popen[str]) -> None:
    assert forker.stdout is not None
    said = forker.stdout.readline()
    if said != "reaped\n":
        raise RuntimeError(f"the publisher ended by itself: {said!r}")


def _world(data: Path, *s3: str) -> CommitWorld:
    if not s3:
        return CommitWorld.on_disk(data)
    return CommitWorld.in_store(data, s3_objects(location(*s3)))


def _publish_for_ever(world: CommitWorld) -> None:
    moves = len(world.releases.audit())
    for turn in range(moves, 1_000_000):
        kind: Literal["flat", "ivf"] = "ivf" if turn % 3 == 0 else "flat"
        world.publish(world.build(turn + os.getpid() * 1_000_000, turn, kind))
        if turn % 5 == 4:
            world.releases.rollback(actor="benchmark", reason="killed while it goes back")
        world.releases.retain(3)


def _serve_forks(data: Path, *s3: str) -> None:
    for _ in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                _publish_for_ever(_world(data, *s3))
            except BaseException:  # this is a copy of the forker: nothing of it may go on
                traceback.print_exc()
            finally:
                os._exit(1)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("reaped" if killed else f"status {status}", flush=True)


if __name__ == "__main__":
    _serve_forks(Path(sys.argv[1]), *sys.argv[2:])
