"""The loop against a stream that does what Faust's `take_events` does: acknowledge in its `finally`."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from schemas.errors import Refused, RetryableError
from streams.faust_loop import EXIT_FAILED, EXIT_UNAVAILABLE, FaustLoop, LoopSettings
from streams.stalls import StallDetector

from .step_doubles import TOPIC, Around


class _Ended(BaseException):
    """The process has ended: nothing after it runs."""


@dataclass
class _Stream:
    """Batches of events; what is acknowledged, and when."""

    batches: list[list[int]]
    acknowledged: list[int] = field(default_factory=list)

    async def take_events(self, most: int, within: float) -> AsyncIterator[list[Any]]:
        for offsets in self.batches:
            try:
                yield [_event(offset) for offset in offsets]
            finally:
                self.acknowledged += offsets


def _event(offset: int) -> Any:
    message = SimpleNamespace(
        topic=TOPIC, partition=0, offset=offset, timestamp=1.001, key=b"1", value=b"x", headers=[("a", b"1")]
    )
    return SimpleNamespace(message=message)


class _World:
    def __init__(self, **settings: Any) -> None:
        self.around, self.codes = Around(), []
        self.loop = FaustLoop(
            self.around.driver, self.around.source, self.around.telemetry, LoopSettings(**settings), self._end
        )

    codes: list[int]

    def _end(self, code: int) -> NoReturn:
        self.codes.append(code)
        raise _Ended


def _run(main: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(_Ended):
        asyncio.run(main)


def test_a_batch_is_acknowledged_when_its_rows_are_with_the_broker_and_not_before() -> None:
    world, stream = _World(), _Stream([[0, 1], [2]])
    seen: list[list[int]] = []
    world.around.step.before_apply = lambda: seen.append(list(stream.acknowledged))

    _run(world.loop._agent(stream))

    assert seen == [[], [0, 1]]
    assert stream.acknowledged == [0, 1, 2]
    assert [one.key for one in world.around.outlet.outputs] == [b"0", b"1", b"2"]
    assert world.codes == []


def test_what_faust_brings_is_passed_on_raw() -> None:
    world = _World()
    taken: list[Any] = []
    world.loop._driver.take = taken.append  # type: ignore[method-assign, assignment]
    _run(world.loop._agent(_Stream([[7]])))
    ((one,),) = taken
    assert (one.topic, one.partition, one.offset, one.ingested_at_ms) == (TOPIC, 0, 7, 1001)
    assert (one.key, one.value, one.headers) == (b"1", b"x", [("a", b"1")])


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError("a bug"), EXIT_FAILED),
        (Refused("no", "a", "b", "c"), EXIT_FAILED),
        (RetryableError("away"), EXIT_UNAVAILABLE),
        (KeyboardInterrupt(), EXIT_FAILED),
    ],
)
def test_no_exception_escapes_the_agent_the_process_ends_and_nothing_is_acknowledged(
    error: BaseException, code: int
) -> None:
    world, stream = _World(), _Stream([[0], [1]])
    acknowledged_at_the_end: list[list[int]] = []
    end = world._end

    def ending(code: int) -> NoReturn:
        acknowledged_at_the_end.append(list(stream.acknowledged))
        end(code)

    world.loop._end = ending
    world.around.step.before_apply = _raise(error)

    _run(world.loop._agent(stream))

    assert world.codes[:1] == [code]
    assert acknowledged_at_the_end[0] == []


def test_a_cancellation_waits_for_the_batch_that_has_begun() -> None:
    """Shutdown and rebalance cancel; `take` would acknowledge rows that were never sent."""

    async def main() -> None:
        world, stream = _World(), _Stream([[0], [1]])
        begun, go_on = asyncio.Event(), asyncio.Event()
        running = asyncio.get_running_loop()

        def hold() -> None:
            running.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), running).result(10)

        world.around.step.before_apply = hold
        agent = asyncio.ensure_future(world.loop._agent(stream))
        await begun.wait()
        for _ in range(3):
            agent.cancel()
            await asyncio.sleep(0)
        assert stream.acknowledged == []
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await agent
        assert [one.key for one in world.around.outlet.outputs] == [b"0"]

    asyncio.run(main())


def test_a_tick_and_a_batch_never_run_at_once() -> None:
    async def main() -> None:
        world, alone, together = _World(), threading.Lock(), []
        tick = world.around.driver.tick

        def work() -> None:
            together.append(not alone.acquire(blocking=False))
            time.sleep(0.002)  # Room for another thread to come in.
            alone.release()

        def ticking() -> bool:
            work()
            return tick()

        world.around.step.before_apply = work
        ticks = [world.loop._guarded(ticking) for _ in range(5)]
        await asyncio.gather(world.loop._agent(_Stream([[0], [1], [2]])), *ticks)
        assert together == [False] * 8

    asyncio.run(main())


def test_new_partitions_are_taken_over_before_anything_else() -> None:
    async def main() -> None:
        world = _World()
        tp = SimpleNamespace(topic=TOPIC, partition=3)
        await world.loop._on_assigned(None, [tp], signal=None)
        assert world.loop.owned == frozenset({(TOPIC, 3)})
        await world.loop._agent(_Stream([[0]]))
        assert world.around.step.calls[0] == "owned [3]"
        assert world.around.step.calls.count("owned [3]") == 1

    asyncio.run(main())


def test_a_process_that_stood_still_for_a_session_ends_before_it_does_anything() -> None:
    world, stream = _World(frozen_seconds=5.0), _Stream([[0]])
    world.loop._beat_at -= 6.0
    _run(world.loop._agent(stream))
    assert world.codes[0] == EXIT_UNAVAILABLE
    assert world.around.outlet.outputs == []


def test_the_watchdog_ends_a_process_in_which_nothing_moves() -> None:
    async def main() -> None:
        world = _World(stall_seconds=0.05, look_seconds=0.01)
        world.around.source.logs[TOPIC, 0] = [1, 2]  # type: ignore[list-item]
        await asyncio.wait_for(world.loop._watchdog(), 10)

    world_codes: list[int] = []
    original = _World._end

    def end(self: _World, code: int) -> NoReturn:
        world_codes.append(code)
        original(self, code)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_World, "_end", end)
        _run(main())
    assert world_codes == [EXIT_UNAVAILABLE]


def test_the_watchdog_has_patience_with_catching_up_and_with_a_broker_that_is_away() -> None:
    world = _World(stall_seconds=0.0)
    world.around.source.logs[TOPIC, 0] = [1, 2]  # type: ignore[list-item]
    detector = StallDetector(0.0)
    world.around.driver.catching_up = True
    assert [world.loop._look(detector) for _ in range(3)] == [None, None, None]
    assert world.around.metric("lag_events") == 2


def test_closing_closes_the_driver_and_the_watch() -> None:
    world = _World()
    world.loop.close()
    assert world.around.step.closed
