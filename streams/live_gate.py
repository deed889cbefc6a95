"""When a realtime tier may be embedded in batch: all that comes is embedded with the tower by workers.

A checkpoint whose `live` names the tower says so: states below its `state_offset` and rows that come
after it hold all of the partition together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from schemas.errors import RetryableError
from schemas.states import StateCheckpointed

from .batch_states import StateSource


@dataclass(frozen=True)
class Waiting:
    """How long to wait and how: `clock` in monotonic seconds, `pause` sleeps, `said` hears why."""

    seconds: float
    clock: Callable[[], float]
    pause: Callable[[float], None]
    said: Callable[[str], None]
    stopped: Callable[[], bool]
    every_seconds: float = 1.0


def partitions_without(
    tower_version: str, partitions: Mapping[int, object], checkpoints: Mapping[int, StateCheckpointed]
) -> dict[int, str]:
    """Partition -> why its states and rows are not known to hold everything; empty when all are."""
    lacking: dict[int, str] = {}
    for number in sorted(partitions):
        one = checkpoints.get(number)
        if one is None:
            lacking[number] = "no checkpoint yet: no worker owns it, or its first flush is still to come"
        elif tower_version not in one.live:
            live = ", ".join(version[:12] for version in one.live) or "none"
            lacking[number] = f"the checkpoint of {one.worker} names other live towers ({live})"
    return lacking


def wait_until_live(source: StateSource, tower_version: str, waiting: Waiting) -> bool:
    """Return True when workers embed all that comes with this tower, on every partition; False when stopped.

    Raises RetryableError, naming the partitions and why, when that takes longer than it may.
    """
    deadline = waiting.clock() + waiting.seconds
    while not waiting.stopped():
        lacking = partitions_without(tower_version, source.spans(), source.checkpoints())
        if not lacking:
            waiting.said("")
            return True
        said = f"workers do not embed all of it with tower {tower_version[:12]} yet: {_listed(lacking)}"
        waiting.said(said)
        if waiting.clock() >= deadline:
            raise RetryableError(
                f"{said}; waited {waiting.seconds:.0f} s. Is `skewless enrich` running, and does LIVE name "
                "the tower?"
            )
        waiting.pause(waiting.every_seconds)
    return False


def _listed(lacking: Mapping[int, str]) -> str:
    """`partitions 0-3, 7: why; partition 5: another why`."""
    by_reason: dict[str, list[int]] = {}
    for number, why in lacking.items():
        by_reason.setdefault(why, []).append(number)
    return "; ".join(f"partition {_ranges(numbers)}: {why}" for why, numbers in by_reason.items())


def _ranges(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)
