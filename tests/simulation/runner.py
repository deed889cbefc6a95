"""Many seeds, or all planted bugs, over several processes."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.pool import Pool

from .history import CRASHED
from .planted_bugs import PLANTED
from .sim_world import Outcome, simulate


@dataclass(frozen=True)
class Caught:
    """The first seed that caught a planted bug and as what; None when none did."""

    bug: str
    seed: int | None
    violation: str


def run_seeds(seeds: Iterable[int], workers: int = 2, *, strict: bool = False) -> Iterator[Outcome]:
    """Outcomes in the order of the seeds, without their traces."""
    with _pool(workers) as pool:
        yield from pool.imap(_run_one, ((seed, strict) for seed in seeds), chunksize=4)


def run_planted(seeds: int, workers: int = 2, bugs: Iterable[str] = PLANTED) -> Iterator[Caught]:
    """For each planted bug the first of so many seeds that catches it."""
    with _pool(workers) as pool:
        yield from pool.imap(_catch, ((bug, seeds) for bug in bugs))


def _pool(workers: int) -> Pool:
    # One thread each: batches of three events are not worth waking others for.
    os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return multiprocessing.get_context("spawn").Pool(workers)


def _run_one(job: tuple[int, bool]) -> Outcome:
    seed, strict = job
    return replace(simulate(seed, strict=strict), lines=())


def _catch(job: tuple[str, int]) -> Caught:
    bug, seeds = job
    return catch(bug, range(seeds))


def catch(bug: str, seeds: Iterable[int]) -> Caught:
    """Run seeds with a planted bug until one breaks what that bug is meant to break.

    A run in which a process crashed counts only for a bug that is meant to do that: a plant that no longer
    fits the code crashes too.
    """
    meant = PLANTED[bug].kinds
    with PLANTED[bug].plant():
        for seed in seeds:
            violations = simulate(seed).violations
            crashed = any(one.kind == CRASHED for one in violations) and CRASHED not in meant
            found = [one for one in violations if one.kind in meant]
            if found and not crashed:
                return Caught(bug, seed, str(found[0]))
    return Caught(bug, None, "")
