"""The last few thousand requests in numbers: rate, and p50 and p99 by stage, for people to look at."""

from collections import deque

import numpy as np

SAMPLES = 2_048
RATE_SECONDS = 10


class RecentRequests:
    """A ring of stage durations and a count a second. Written by the request path, read from any thread."""

    def __init__(self) -> None:
        self._durations: dict[str, deque[float]] = {}
        self._per_second: deque[tuple[int, int]] = deque(maxlen=RATE_SECONDS + 1)
        self.requests = 0

    def add(self, durations: dict[str, float], now_seconds: int) -> None:
        """One request: seconds by stage, and the second it was answered in."""
        for stage, seconds in durations.items():
            ring = self._durations.get(stage)
            if ring is None:
                ring = self._durations[stage] = deque(maxlen=SAMPLES)
            ring.append(seconds)
        self.requests += 1
        if self._per_second and self._per_second[-1][0] == now_seconds:
            self._per_second[-1] = (now_seconds, self._per_second[-1][1] + 1)
        else:
            self._per_second.append((now_seconds, 1))

    def per_second(self, now_seconds: int) -> float:
        """Requests a second over the last `RATE_SECONDS` full seconds."""
        counted = sum(n for second, n in list(self._per_second) if 0 < now_seconds - second <= RATE_SECONDS)
        return counted / RATE_SECONDS

    def quantiles(self) -> dict[str, dict[str, float]]:
        """Stage -> p50 and p99 in seconds over the last `SAMPLES` requests."""
        return {
            stage: dict(
                zip(
                    ("p50_seconds", "p99_seconds"),
                    np.quantile(np.array(ring), (0.5, 0.99)).tolist(),
                    strict=True,
                )
            )
            for stage, ring in list(self._durations.items())
            if ring
        }
