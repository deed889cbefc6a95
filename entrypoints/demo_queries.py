"""Live queries of the demo: real baskets, sent as ranking queries while releases swap underneath."""

import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.ranking import RankRequest, RankResponse
from skewless_client import RankClient, RankError


@dataclass
class Answers:
    """What came back so far."""

    answered: int = 0
    failed: int = 0
    mixed: int = 0
    releases: list[str] = field(default_factory=list)
    """Release ids in the order in which they first answered."""
    seconds: list[float] = field(default_factory=list)
    last_error: str = ""

    def add(self, response: RankResponse, seconds: float) -> None:
        """Count one response."""
        self.answered += 1
        self.seconds.append(seconds)
        self.mixed += response.query_tower_version != response.pin_tower_version
        if not self.releases or self.releases[-1] != response.release_id:
            self.releases.append(response.release_id)


class QueryLoad:
    """Sends the given queries round and round from one thread, at most `per_second`, until stopped."""

    def __init__(self, url: str, queries: Sequence[RankRequest], per_second: float) -> None:
        self.answers = Answers()
        self._url, self._queries, self._pause_seconds = url, queries, 1.0 / per_second
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="demo-queries", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> Answers:
        """End after the query in flight, and give the counts."""
        self._stopping.set()
        self._thread.join(timeout=30)
        return self.answers

    def _send_all(self) -> None:
        with RankClient(self._url) as client:
            for query in itertools.cycle(self._queries):
                if self._stopping.is_set():
                    return
                started = time.perf_counter()
                try:
                    self.answers.add(client.rank(query), time.perf_counter() - started)
                except RankError as error:
                    self.answers.failed += 1
                    self.answers.last_error = str(error)
                self._stopping.wait(max(0.0, self._pause_seconds - (time.perf_counter() - started)))
