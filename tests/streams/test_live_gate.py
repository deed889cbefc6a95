from dataclasses import dataclass, field

import pytest

from schemas.errors import RetryableError
from streams.live_gate import Waiting, partitions_without, wait_until_live
from tests.schemas.examples import VERSION_A, VERSION_B
from tests.streams.states_in_memory import StatesInMemory, checkpoint


@dataclass
class Time:
    now: float = 0.0
    said: list[str] = field(default_factory=list)
    stopped: bool = False

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def waiting(self, seconds: float = 60.0) -> Waiting:
        return Waiting(seconds, lambda: self.now, self.pause, self.said.append, lambda: self.stopped)


def test_nothing_is_missing_when_every_partition_names_the_tower() -> None:
    source = StatesInMemory(2)
    source.said = {n: checkpoint(n, VERSION_A, VERSION_B) for n in range(2)}

    assert wait_until_live(source, VERSION_B, Time().waiting())


def test_a_partition_without_a_checkpoint_and_one_of_other_towers_are_told_apart() -> None:
    lacking = partitions_without(
        VERSION_B, {0: None, 1: None, 2: None}, {1: checkpoint(1, VERSION_A), 2: checkpoint(2, VERSION_B)}
    )

    assert set(lacking) == {0, 1}
    assert "no checkpoint" in lacking[0]
    assert "worker-0" in lacking[1] and VERSION_A[:12] in lacking[1]


def test_it_waits_until_the_last_worker_says_so() -> None:
    source, time = StatesInMemory(2), Time()
    source.said = {0: checkpoint(0, VERSION_B), 1: checkpoint(1, VERSION_A)}
    waiting = time.waiting()

    def pause(seconds: float) -> None:
        time.now += seconds
        if time.now >= 5:
            source.said[1] = checkpoint(1, VERSION_A, VERSION_B)

    slow = Waiting(waiting.seconds, waiting.clock, pause, waiting.said, waiting.stopped)

    assert wait_until_live(source, VERSION_B, slow)
    assert time.now == 5
    assert "partition 1:" in time.said[0] and time.said[-1] == ""


def test_it_gives_up_after_its_time_and_names_partitions_in_ranges() -> None:
    source, time = StatesInMemory(6), Time()
    source.said = {4: checkpoint(4, VERSION_B)}

    with pytest.raises(RetryableError, match=r"partition 0-3, 5: no checkpoint yet.*waited 3 s"):
        wait_until_live(source, VERSION_B, time.waiting(3.0))


def test_it_ends_when_told_to_stop() -> None:
    time = Time(stopped=True)

    assert not wait_until_live(StatesInMemory(2), VERSION_B, time.waiting())
