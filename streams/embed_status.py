"""Counts what one batch embedder has done, for its status file and whoever watches it."""

from schemas.statuses import EmbedStatus


class EmbedMeter:
    """Counts one process's work. Times are monotonic seconds."""

    def __init__(self, tier: str, tower_version: str, now: float) -> None:
        self._tier, self._tower, self._began = tier, tower_version, now
        self.run_id = ""
        self.waiting = ""
        self.partitions = self.done = self.read = self.expected = self.rows = self.failed = 0

    def begin(self, run_id: str, partitions: int, expected: int, now: float) -> None:
        """Waiting is over: rates count from here."""
        self.run_id, self.partitions, self.expected = run_id, partitions, expected
        self._began, self.waiting = now, ""

    def status(self, now: float, now_ms: int, cpu_seconds: float = 0.0) -> EmbedStatus:
        """The figures now; the time left assumes that what is left is read as fast as what was."""
        seconds = max(now - self._began, 1e-9)
        rate = self.read / seconds
        left = max(self.expected - self.read, 0)
        return EmbedStatus(
            tier=self._tier,
            tower_version=self._tower,
            run_id=self.run_id,
            written_at_ms=now_ms,
            partitions=self.partitions,
            done=self.done,
            state_rows=self.read,
            state_rows_expected=self.expected,
            rows=self.rows,
            failed=self.failed,
            rows_per_second=rate,
            eta_seconds=0.0 if not left else left / rate if rate else None,
            cpu_seconds=cpu_seconds,
            waiting=self.waiting,
        )
