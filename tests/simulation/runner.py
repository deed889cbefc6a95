"""Many seeds over several processes."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .sim_world import Outcome, simulate


def run_seeds(seeds: Iterable[int], workers: int = 2) -> Iterator[Outcome]:
    """Outcomes in the order of the seeds, without their traces."""
    # One thread each: batches of three events are not worth waking others for.
    os.environ |= {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_run_one, seeds, chunksize=4)


def _run_one(seed: int) -> Outcome:
    return replace(simulate(seed), lines=())
