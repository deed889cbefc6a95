"""`python -m tests.simulation SEED [-v]` replays one seed; `--seeds N [--from M]` runs many."""

import argparse
import sys
import time

from .runner import run_seeds
from .sim_world import simulate


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this one")
    parser.add_argument("-v", "--verbose", action="store_true", help="print its trace")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    return parser.parse_args()


def _replay(seed: int, verbose: bool) -> int:
    outcome = simulate(seed)
    if verbose:
        print("\n".join(outcome.lines))
    print(f"seed {seed}: {outcome.events} events, trace {outcome.digest[:16]}")
    for violation in outcome.violations:
        print(f"  {violation}")
    return 1 if outcome.violations else 0


def _run_many(first: int, count: int, workers: int) -> int:
    start = time.perf_counter()
    failed = events = 0
    for outcome in run_seeds(range(first, first + count), workers):
        events += outcome.events
        if outcome.violations:
            failed += 1
            print(f"seed {outcome.seed}: {outcome.violations[0]}")
            print(f"  replay: python -m tests.simulation {outcome.seed} -v", flush=True)
    seconds = time.perf_counter() - start
    print(f"{count} seeds, {events} events, {failed} failed, {seconds:.1f} s, {count / seconds:.1f} seeds/s")
    return 1 if failed else 0


def main() -> int:
    """Exit code 1 when a seed broke a promise."""
    arguments = _arguments()
    if arguments.seed is not None:
        return _replay(arguments.seed, arguments.verbose)
    return _run_many(arguments.first, arguments.seeds, arguments.workers)


if __name__ == "__main__":
    sys.exit(main())
