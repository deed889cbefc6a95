"""Writers that publish at once, each only on top of what it saw: no move may be lost or overwritten.

`python -m benchmarks.commit_races DATA FIRST_SEED COMMITS` is one writer. It builds its releases, says
"ready", and goes when it reads a line.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from index.release_contract import Releases
from schemas.errors import Refused

from .commit_world import CommitWorld

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class RaceResult:
    """What the audit trail says after a race."""

    commits: int
    moves: int
    gaps: int
    """Moves that do not begin where the one before them ended."""
    overwritten: int
    """Commits that were reported as made and are not in the trail, or more than once."""

    @property
    def ok(self) -> bool:
        """Exactly one move a commit, in one chain."""
        return self.moves == self.commits and self.gaps == 0 and self.overwritten == 0


def commit_all(releases: Releases, release_ids: Sequence[str], actor: str) -> int:
    """Publish each by compare-and-set, looking again whenever somebody was first; returns the races lost."""
    lost = 0
    for release_id in release_ids:
        while True:
            try:
                current = releases.current()
                releases.publish(release_id, actor=actor, reason="race", expected_current=current)
                break
            except Refused as refused:
                if refused.code != "current_moved":
                    raise
                lost += 1
    return lost


def judge(releases: Releases, committed: Sequence[str]) -> RaceResult:
    """Compare the trail with what the writers say that they did."""
    trail = releases.audit()
    before = [None, *(line.release_id for line in trail)]
    gaps = sum(line.previous_release_id != last for line, last in zip(trail, before, strict=False))
    ids = [line.release_id for line in trail]
    return RaceResult(
        len(committed), len(trail), gaps, sum(ids.count(release_id) != 1 for release_id in committed)
    )


def race_of_threads(world: CommitWorld, writers: int, commits: int) -> RaceResult:
    """Writers as threads that share one store object."""
    ids = [[world.build(writer * commits + n) for n in range(commits)] for writer in range(writers)]
    barrier = threading.Barrier(writers)
    failures: list[BaseException] = []

    def write(mine: Sequence[str], actor: str) -> None:
        barrier.wait()
        try:
            commit_all(world.releases, mine, actor)
        except BaseException as error:  # told to whoever started the race
            failures.append(error)

    threads = [threading.Thread(target=write, args=(mine, f"w{n}")) for n, mine in enumerate(ids)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return judge(world.releases, [one for mine in ids for one in mine])


def race_of_processes(world: CommitWorld, writers: int, commits: int) -> RaceResult:
    """Writers as processes, on the local disk."""
    command = [sys.executable, "-m", "benchmarks.commit_races", str(world.data)]
    children = [
        subprocess.Popen(
            [*command, str(writer * commits), str(commits)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(writers)
    ]
    committed: list[str] = []
    for child in children:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            raise RuntimeError("a writer did not get as far as the race")
    _all(children, lambda child: child.stdin.write("go\n") if child.stdin else None)
    _all(children, lambda child: child.stdin.flush() if child.stdin else None)
    for child in children:
        out, _ = child.communicate(timeout=120)
        if child.returncode:
            raise RuntimeError(f"a writer ended with {child.returncode}")
        committed += out.split()
    return judge(world.releases, committed)


def _all(children: list[subprocess.Popen[str]], do: Callable[[subprocess.Popen[str]], object]) -> None:
    for child in children:
        do(child)


def _writer(data: Path, first_seed: int, commits: int) -> None:
    world = CommitWorld.on_disk(data)
    mine = [world.build(first_seed + n) for n in range(commits)]
    print("ready", flush=True)
    sys.stdin.readline()
    commit_all(world.releases, mine, f"seed {first_seed}")
    print(*mine, sep="\n")


if __name__ == "__main__":
    _writer(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
