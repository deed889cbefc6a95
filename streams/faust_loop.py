"""One step as one Faust agent: Faust brings raw messages, takes acknowledgements, and has nothing to lose.

What Faust does with an exception decides the shape of this file. One that escapes an agent drops its
event; one inside `take` ends the stream for good, and acknowledges the batch on the way out. So nothing
escapes: everything is in one `try`, and what is not understood ends the process at once, without any of
Faust's own endings, so that nothing is acknowledged that was not done. A cancellation (shutdown, rebalance)
would acknowledge an unfinished batch as well, so a batch that has begun is finished first.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

import faust

from schemas.errors import Refused, RetryableError

from .positions import Partition
from .stalls import StallDetector, lag_of
from .step_driver import StepDriver
from .step_source import StepSource
from .steps import RawEvent
from .stream_telemetry import StreamTelemetry

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

EXIT_FAILED, EXIT_UNAVAILABLE = 1, 3
_BEAT_SECONDS = 0.25

End = Callable[[int], NoReturn]


def end_process(code: int) -> NoReturn:
    """End without cleaning up: what is on disk is whole, and Faust's clean-up would acknowledge too much."""
    logging.shutdown()
    os._exit(code)


@dataclass(frozen=True)
class LoopSettings:
    """Sizes and times of one loop.

    A batch is what came within `take_seconds`, at most `take_events`. `frozen_seconds`: after a pause of
    the whole process that is longer than its group session, another worker owns its partitions.
    """

    take_events: int = 1000
    take_seconds: float = 0.1
    tick_seconds: float = 1.0
    frozen_seconds: float = 10.0
    stall_seconds: float = 60.0
    look_seconds: float = 5.0


class FaustLoop:
    """Registers one step's agent and clock on an app. `watch` is asked by the watchdog alone."""

    def __init__(
        self,
        driver: StepDriver,
        watch: StepSource,
        telemetry: StreamTelemetry,
        settings: LoopSettings,
        end: End = end_process,
    ) -> None:
        self._driver, self._watch, self._telemetry = driver, watch, telemetry
        self._settings, self._end = settings, end
        self._one_at_a_time = asyncio.Lock()
        self._taken_over: list[Partition] | None = None
        self._beat_at = time.monotonic()
        self.owned: frozenset[Partition] = frozenset()

    def register(self, app: faust.App) -> None:
        """Add the agent and the clock. Call once, before the app starts."""
        topic = app.topic(
            *self._driver.topics,
            # Raw: a message that Faust cannot decode would be gone before we see it.
            key_serializer="raw",
            value_serializer="raw",
        )
        # concurrency=1: with more Faust commits past a message that is still being worked on.
        app.agent(topic, name=self._driver.name, concurrency=1)(self._agent)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)
        app.task(self._clock)

    async def _on_assigned(self, *arguments: Any, **_: Any) -> None:
        # What was owned before stays owned until here: Faust has waited for the batch at the revocation, and
        # a tick that is still sending speaks for what may be ours again.
        self._taken_over = sorted((one.topic, one.partition) for one in arguments[-1])
        self.owned = frozenset(self._taken_over)

    async def _agent(self, stream: Any) -> None:
        take = stream.take_events(self._settings.take_events, within=self._settings.take_seconds)
        async for events in take:
            batch = [_raw(one) for one in events]
            await self._guarded(partial(self._driver.take, batch))

    async def _guarded(self, act: Callable[[], ResultT]) -> ResultT:
        """Run in a thread, one at a time, to its end whatever is cancelled; any failure ends the process."""
        running = asyncio.ensure_future(self._whole(act))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # NOTE: to let go here would acknowledge the batch (`take` does so in its `finally`).
            await _finished(running)
            raise

    async def _whole(self, act: Callable[[], ResultT]) -> ResultT:
        try:
            async with self._one_at_a_time:
                self._check_not_frozen()
                if self._taken_over is not None:
                    partitions, self._taken_over = self._taken_over, None
                    await asyncio.to_thread(self._driver.assigned, partitions)
                return await asyncio.to_thread(act)
        except RetryableError as error:
            log.error("%s: %s; ending, to be started again", self._driver.name, error)
            self._end(EXIT_UNAVAILABLE)
        except Refused as error:
            log.error("%s: refused: %s", self._driver.name, error)
            self._end(EXIT_FAILED)
        except BaseException:
            log.exception("%s: ending, nothing of this batch is acknowledged", self._driver.name)
            self._end(EXIT_FAILED)

    async def _clock(self) -> None:
        """Tick about once a second; at once again while a tick has left something to do."""
        while True:
            more = await self._guarded(self._driver.tick)
            await asyncio.sleep(0 if more else self._settings.tick_seconds)

    async def guard(self) -> None:
        """Watch over the process for as long as it runs.

        NOTE: no task of the app's: those begin when the group has formed, and a group that does not form
        is one of the ways to hang.
        """
        await asyncio.gather(self._heart(), self._watchdog())

    async def _heart(self) -> None:
        while True:
            self._check_not_frozen()
            self._beat_at = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    def _check_not_frozen(self) -> None:
        """A process that stood still for a session's length must not go on as if it owned anything."""
        stood_still = time.monotonic() - self._beat_at
        if stood_still > self._settings.frozen_seconds:
            log.error("%s: the process stood still for %.0f s; ending", self._driver.name, stood_still)
            self._end(EXIT_UNAVAILABLE)

    async def _watchdog(self) -> None:
        detector = StallDetector(self._settings.stall_seconds)
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            try:
                why = await asyncio.to_thread(self._look, detector)
            except RetryableError as error:
                log.warning("%s: watchdog: %s", self._driver.name, error)
                detector.restart()
                continue
            if why is not None:
                log.error("%s: %s for %.0f s; ending", self._driver.name, why, self._settings.stall_seconds)
                self._end(EXIT_UNAVAILABLE)

    def _look(self, detector: StallDetector) -> str | None:
        name = self._driver.name
        standings = self._watch.standing(self._watch.partitions(self._driver.topics))
        had = sum(one.committed or 0 for one in standings.values())
        lag = sum(map(lag_of, standings.values()))
        self._telemetry.position.labels(name).set(had)
        self._telemetry.lag_events.labels(name).set(lag)
        if self._driver.catching_up:
            # A long way to read again; it has its own limit for a broker that says nothing.
            detector.restart()
            return None
        return detector.stalled(standings, self.owned, time.monotonic())

    def close(self) -> None:
        """Disconnect and release the step's store. Only after the app has stopped."""
        self._watch.close()
        self._driver.close()


async def _finished(running: Awaitable[Any]) -> None:
    """Wait for it, however often this wait is cancelled."""
    while not asyncio.ensure_future(running).done():
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            continue


def _raw(event: Any) -> RawEvent:
    message = event.message
    headers = message.headers or []
    return RawEvent(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        # Faust has it in seconds, as a float.
        ingested_at_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=list(headers.items() if isinstance(headers, dict) else headers),
    )
