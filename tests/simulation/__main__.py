"""Replay one seed (`SEED [-v]`), run many (`--seeds N [--from M]`), or catch planted bugs (`--planted`).

With `--json` the last line of many seeds or planted bugs is a JSON object; `benchmarks.simulation` reads it.
"""

import argparse
import json
import sys
import time

from .planted_bugs import PLANTED
from .runner import run_planted, run_seeds
from .sim_world import simulate


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="replay this one")
    parser.add_argument("-v", "--verbose", action="store_true", help="print its trace")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--strict", action="store_true", help="stop processes while they hand over rows, too")
    parser.add_argument("--planted", action="store_true", help="the first seed that catches each planted bug")
    parser.add_argument("--bugs", type=int, default=len(PLANTED), help="how many of them, from the first on")
    parser.add_argument(
        "--json", action="store_true", help="last line: figures and the digest of every trace"
    )
    return parser.parse_args()


def _replay(seed: int, verbose: bool, strict: bool) -> int:
    outcome = simulate(seed, strict=strict)
    if verbose:
        print("\n".join(outcome.lines))
    print(f"seed {seed}: {outcome.events} events, trace {outcome.digest[:16]}")
    for violation in outcome.violations:
        print(f"  {violation}")
    return 1 if outcome.violations else 0


def _run_many(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    broken: list[str] = []
    digests: list[str] = []
    events = 0
    more = " --strict" if options.strict else ""
    seeds = range(options.first, options.first + options.seeds)
    for outcome in run_seeds(seeds, options.workers, strict=options.strict):
        events += outcome.events
        digests.append(outcome.digest)
        if outcome.violations:
            broken.append(f"seed {outcome.seed}: {outcome.violations[0]}")
            print(broken[-1])
            print(f"  replay: python -m tests.simulation {outcome.seed} -v{more}", flush=True)
    seconds = time.perf_counter() - start
    rate = options.seeds / seconds
    print(
        f"{options.seeds} seeds, {events} events, {len(broken)} failed, {seconds:.1f} s, {rate:.1f} seeds/s"
    )
    if options.json:
        print(json.dumps({"seconds": seconds, "events": events, "broken": broken, "digests": digests}))
    return 1 if broken else 0


def _catch_planted(options: argparse.Namespace) -> int:
    bugs = list(PLANTED)[: options.bugs]
    first_seeds: dict[str, int | None] = {}
    for caught in run_planted(options.seeds, options.workers, bugs):
        first_seeds[caught.bug] = caught.seed
        print(f"{caught.bug}: seed {caught.seed}  {caught.violation}", flush=True)
    if options.json:
        print(json.dumps({"first_seeds": first_seeds}))
    return 1 if None in first_seeds.values() else 0


def main() -> int:
    """Exit code 1 when a seed broke a promise, or when a planted bug was not caught."""
    options = _arguments()
    if options.seed is not None:
        return _replay(options.seed, options.verbose, options.strict)
    return _catch_planted(options) if options.planted else _run_many(options)


if __name__ == "__main__":
    sys.exit(main())
