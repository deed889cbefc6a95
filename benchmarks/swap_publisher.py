"""Moves CURRENT for ever among releases that are there, one move in eleven a rollback; made to be killed.

Prints a line for each move that the server was seen to serve: `publish <id>` or `rollback <id>`.
"""

import argparse
import random
import time
from pathlib import Path

import orjson

from index.releases import ReleaseStore
from schemas.errors import Refused

from .ranking_server import Connection

ROLLBACK_EVERY = 11
SERVED_SECONDS = 30.0
_POLL_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--pause-seconds", type=float, required=True)
    arguments = parser.parse_args()
    store, rng = ReleaseStore(arguments.data / "releases"), random.Random(arguments.seed)
    while True:
        action, wanted = _move(store, rng)
        if _is_served(arguments.port, wanted):
            print(action, wanted, flush=True)
        time.sleep(arguments.pause_seconds)


def _move(store: ReleaseStore, rng: random.Random) -> tuple[str, str]:
    if rng.randrange(ROLLBACK_EVERY) == 0:
        try:
            return "rollback", store.rollback(actor="storm", reason="back").release_id
        except Refused as refused:
            if refused.code != "no_predecessor":
                raise
    others = [one for one in store.list() if one != store.current()]
    wanted = rng.choice(others)
    store.publish(wanted, actor="storm", reason="on")
    return "publish", wanted


def _is_served(port: int, wanted: str) -> bool:
    """Whether the server serves it within the time; while it is being restarted it serves nothing."""
    deadline = time.monotonic() + SERVED_SECONDS
    while time.monotonic() < deadline:
        try:
            with Connection(port) as connection:
                while time.monotonic() < deadline:
                    status, body = connection.get("/v2/health/ready")
                    if status == 200 and orjson.loads(body)["release_id"] == wanted:
                        return True
                    time.sleep(_POLL_SECONDS)
        except (OSError, ValueError, KeyError, IndexError):
            time.sleep(_POLL_SECONDS)
    return False


if __name__ == "__main__":
    main()
