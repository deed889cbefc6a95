"""Simulated time, and processes that take turns: at any moment exactly one of them runs.

A process is a thread that holds the baton between two of its calls into the simulated world and waits
for it otherwise, so a run is as deterministic as one thread: which process goes on, when time moves and
which fault strikes is decided here, from the seed.
"""

import heapq
import random
import threading
from collections.abc import Callable

CALL_SECONDS = 0.0002
_YIELDS = 0.12
"""How often a call hands the baton over although it need not wait."""
_FOR_EVER = 1e18


class SimKilled(BaseException):
    """`kill -9`. It ends the process wherever it is; what runs on the way out changes nothing any more."""


class Stuck(Exception):
    """The simulated world did not come to rest within its limits."""


class Timeline:
    """Simulated seconds, and what happens when. Of two events of one moment the older goes first."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at a moment; in the past means now."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self.at(self.now + seconds, action)

    def wake_at(self, when: float) -> None:
        """Let waiting processes look again at this moment."""
        self.at(when, _nothing)

    def fire_due(self) -> None:
        """Everything that is due, in order."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    @property
    def next_event(self) -> float:
        """When the next event is due."""
        return self._events[0][0] if self._events else _FOR_EVER


def _nothing() -> None:
    pass


class Process:
    """One simulated process. Its client calls come through `call` and `block`."""

    def __init__(self, name: str, world: "Scheduler", body: Callable[["Process"], None]) -> None:
        self.name, self._world, self._body = name, world, body
        self.killed_at: float | None = None
        self.paused_until = 0.0
        self.cut = False
        """Cut off from the network, but running."""
        self.ended = False
        self.failure: Exception | None = None
        self.stopping = False
        self.on_call: Callable[[Process, str], None] = lambda process, name: None
        self._wake_at, self._ready = 0.0, _never
        self._go, self._gone = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._gone.acquire()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._go.acquire()
        try:
            if self.killed_at is None:
                self._body(self)
        except SimKilled:
            pass
        except Exception as error:
            self.failure = error
        self.ended = True
        self._gone.release()

    def resume(self) -> None:
        """Scheduler only: let it run until it yields or ends."""
        self._go.release()
        self._gone.acquire()
        if self.ended:
            self._thread.join()

    def _yield(self) -> None:
        self._gone.release()
        self._go.acquire()
        self.check_alive()

    def check_alive(self) -> None:
        """Raises SimKilled in a process that was killed."""
        if self.killed_at is not None:
            raise SimKilled

    @property
    def paused(self) -> bool:
        """Whether it is stopped (SIGSTOP)."""
        return self._world.time.now < self.paused_until

    @property
    def runnable(self) -> bool:
        """Whether it would run now."""
        if self.ended or self.paused:
            return False
        return self._wake_at <= self._world.time.now or self._ready()

    @property
    def next_look(self) -> float:
        """When it wants to run without anything happening before."""
        return _FOR_EVER if self.ended else max(self._wake_at, self.paused_until)

    def call(self, name: str, *, hand_over: bool = False) -> None:
        """A call into the world: faults may strike here, others may run before it goes on.

        `hand_over`: rows are being given to the producer. A process may die there, but it is not stopped
        there unless the world is `strict`: see `Scheduler`.
        """
        self.check_alive()
        self._world.time.now += CALL_SECONDS
        self._world.trace(self.name, name)
        self.on_call(self, name)
        if hand_over and not self._world.strict:
            return
        if self.paused or self._world.rng.random() < _YIELDS:
            self.block(self._world.time.now)

    def block(self, until: float, ready: Callable[[], bool] | None = None) -> None:
        """Wait until a moment, or until something is so."""
        self.check_alive()
        self._wake_at, self._ready = until, ready or _never
        self._yield()

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while."""
        self.call("sleep")
        self.block(self._world.time.now + seconds)

    def kill(self) -> None:
        """`kill -9`; from inside the process itself or from outside."""
        self.killed_at = self._world.time.now
        if threading.current_thread() is self._thread:
            raise SimKilled
        while not self.ended:
            self.resume()


def _never() -> bool:
    return False


class Scheduler:
    """Runs the processes of one seed, one at a time, and moves time when all of them wait.

    `strict`: a process may also be stopped between two rows that it gives to the producer, which is after
    it has asked whether it may. Nothing outside of the broker can close that gap of microseconds, so this
    shows what an unlucky SIGSTOP can do and no more.
    """

    def __init__(self, rng: random.Random, *, strict: bool = False) -> None:
        self.rng, self.time, self.strict = rng, Timeline(), strict
        self.processes: list[Process] = []
        self.lines: list[str] = []
        self.steps = 0

    def trace(self, *parts: object) -> None:
        """One line of the run's history."""
        self.lines.append(f"{self.time.now:.4f} " + " ".join(map(str, parts)))

    def spawn(self, name: str, body: Callable[[Process], None]) -> Process:
        """Start a process."""
        process = Process(name, self, body)
        self.processes.append(process)
        return process

    def run(self, done: Callable[[], bool], *, until: float, steps: int = 20_000) -> None:
        """Run until `done()`. Raises Stuck after so many simulated seconds or turns."""
        limit = self.steps + steps
        while True:
            self.time.fire_due()
            self.processes = [process for process in self.processes if not process.ended]
            if done():
                return
            self.steps += 1
            if self.time.now > until or self.steps > limit:
                raise Stuck(f"at {self.time.now:.1f} s, after {self.steps} turns")
            self._step()

    def _step(self) -> None:
        ready = [process for process in self.processes if process.runnable]
        if ready:
            process = ready[0] if len(ready) == 1 else self.rng.choice(ready)
            process.resume()
            return
        looks = [process.next_look for process in self.processes]
        self.time.now = max(self.time.now, min([self.time.next_event, *looks]))

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            process.kill()
        self.processes.clear()
