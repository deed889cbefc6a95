"""Looking again and again, from a thread of its own that gives way to requests unless told otherwise."""

import logging
import os
import sys
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

LOWEST_PRIORITY = 19


class Poll:
    """Calls `look` at once and then every so many seconds, until it is closed; what it raises is logged."""

    def __init__(self, name: str, look: Callable[[], object], *, gives_way: bool = True) -> None:
        """`gives_way`: at the lowest priority, for work that may wait for requests."""
        self._gives_way = gives_way
        self._look = look
        self._name = name
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, every_seconds: float) -> None:
        """Begin; the first look comes at once."""
        self._thread = threading.Thread(target=self._run, args=(every_seconds,), name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; waits for a look that is under way. Harmless when it was never started."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, every_seconds: float) -> None:
        if self._gives_way:
            lower_priority()
        complaint = ""
        while not self._closing.is_set():
            try:
                self._look()
                complaint = ""
            except Exception as error:
                # NOTE: whatever it is, a server whose thread is dead would never see another release.
                if complaint != repr(error):
                    complaint = repr(error)
                    log.exception("%s: looking again in %.1f s", self._name, every_seconds)
            self._closing.wait(every_seconds)


def lower_priority() -> None:
    """Give the calling thread the lowest priority; Linux only, where priority belongs to a thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
