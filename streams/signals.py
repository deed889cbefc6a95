"""Running something until SIGTERM or SIGINT."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)


def run_until_signalled(run: Callable[[Callable[[], bool]], None]) -> None:
    """Call `run(stopped)` in the main thread; `stopped()` turns true with the first signal."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        log.info("signal %d: finishing the batch", number)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        run(stop.is_set)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
