"""How far long work is: a bar on a terminal, a line every ten seconds anywhere else."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .output import messages, progress

EVERY_SECONDS = 10.0

Show = Callable[[int, int | None, str], None]
"""Done, of how many (None: nobody knows), and what else there is to say."""


@contextmanager
def meter(title: str, unit: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Show]:
    """A function to call, as often as you like, with how far it is."""
    if messages.is_terminal:
        with progress() as bars:
            task = bars.add_task(title, total=None, note="")
            yield lambda done, total, note: bars.update(task, completed=done, total=total, note=note)
        return
    begun = clock()
    due = [begun + EVERY_SECONDS]

    def line(done: int, total: int | None, note: str) -> None:
        now = clock()
        if now < due[0]:
            return
        due[0] = now + EVERY_SECONDS
        of = "" if total is None else f" of {total:,}"
        left = "" if not total or not done else f", {(now - begun) * (total - done) / done:,.0f} s left"
        messages.print(f"{title}: {done:,}{of} {unit}{left} {note}".rstrip(), markup=False, soft_wrap=True)

    yield line
