"""Locks between processes of one data directory: `flock` on a file, given back by the kernel at any death."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Refused


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock and hold it. The file stays; it is empty, and whether it is there means nothing.

    NOTE: not re-entrant: a second `locked` of the same path in one thread waits for ever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held_alone(path: Path, refusal: Refused) -> Iterator[None]:
    """Hold the lock; raises `refusal` at once while another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                # Somebody who only looks (`is_held`) has it for an instant: that refuses nobody.
                if is_held(path):
                    raise refusal from error
        yield


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock now. Any number may look at once: they do not see each other."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
