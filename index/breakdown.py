"""Where the time of a build goes, phase by phase. Returned, never written: manifests hold no wall clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Breakdown:
    """Seconds per phase; a phase that is entered again adds up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block."""
        started = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started
