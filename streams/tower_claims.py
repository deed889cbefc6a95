"""What checkpoints say of towers, and how a worker takes it back before it becomes untrue.

A checkpoint of a partition claims that a tower has a row of every Pin (`embedded`), or that it was asked to
embed every event (`live`). Whoever takes the partition over builds on that, also after a kill of this worker.
So a claim that the next batch breaks is taken back before that batch is stored.
"""

from collections.abc import Callable, Mapping, Sequence

from .backfill import Backfill
from .state_flush import StateFlush
from .state_rows import StateRows


class TowerClaims:
    """Takes claims of this worker's checkpoints back, and those that an earlier owner left.

    `settle` waits until the broker has acknowledged all that was produced, and then produces the checkpoints
    of a flush that is through; `produce` produces rows.
    """

    def __init__(
        self,
        backfill: Backfill,
        flush: StateFlush,
        settle: Callable[[], None],
        produce: Callable[[StateRows | None], bool],
    ) -> None:
        self._backfill, self._flush, self._settle, self._produce = backfill, flush, settle, produce

    def retract(self, versions: Sequence[str]) -> None:
        """Take back the claims of every other tower: the next batch is embedded with these alone."""
        if self._backfill.drops(versions) or self._flush.names_others(versions):
            self._correct(lambda: self._flush.retract(versions))

    def take_back(self, lacking: Mapping[str, frozenset[int]]) -> None:
        """Call a tower complete no longer in partitions in which it lacks rows of the next batch.

        `lacking`: tower version -> those partitions.
        """
        for version, partitions in lacking.items():
            self._backfill.lost(version, partitions)
        if self._flush.calls_complete(lacking):
            self._correct(lambda: self._flush.lacks(lacking))

    def _correct(self, checkpoints: Callable[[], StateRows | None]) -> None:
        """Produce corrected checkpoints behind every uncorrected one, and wait for their acknowledgement."""
        # Twice: the first time may still produce an uncorrected checkpoint, of a flush that is under way.
        self._settle()
        self._settle()
        self._produce(checkpoints())
        self._settle()
