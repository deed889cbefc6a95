"""What a design is, ours, and the one without delay: when each shows a changed Pin, and by which tower.

All see the same rows by the same towers. `rows` is called at the end of each step with the Pins that
changed in it, then `due` for what happens at that moment.
"""

from typing import Protocol

import numpy as np

from .freshness_skew_clock import Codes, Ints, Timeline, code_at, next_hour, next_multiple
from .freshness_skew_rows import Costs, Shown, Slots, Tables, Waiting


class Design(Protocol):
    """One way to bring embeddings into an index while towers change."""

    name: str
    shown: Shown
    costs: Costs

    def moments(self) -> set[int]:
        """When something happens besides rows."""
        ...

    def rows(self, now_ms: int, slots: Slots, arrived_ms: Ints, tables: Tables) -> None:
        """These Pins changed in the step that ends now, the last time at `arrived_ms`."""
        ...

    def due(self, now_ms: int, tables: Tables) -> None:
        """Do what is due at this moment."""
        ...

    def query_codes(self, at_ms: Ints, users: Ints) -> Codes:
        """The version that embeds each query."""
        ...

    def servable_ms(self, arrived_ms: Ints) -> Ints:
        """When a query can first score a row that holds the event."""
        ...


class Common:
    """What every design has."""

    def __init__(self, name: str, timeline: Timeline, shown: Shown) -> None:
        self.name, self.timeline, self.shown = name, timeline, shown
        self.costs = Costs()
        self.all_slots: Slots = np.arange(len(shown), dtype=np.intp)


class Offline(Common):
    """No design: what a paper measures. Every event acts at once, every rollover takes no time."""

    def moments(self) -> set[int]:
        """See `Design`."""
        return set(self.timeline.ready_ms)

    def rows(self, now_ms: int, slots: Slots, arrived_ms: Ints, tables: Tables) -> None:
        """See `Design`."""
        version = int(self.timeline.newest(now_ms - 1)[0])
        self.shown.write(self.shown.take(tables, slots, version))
        self.costs.update_forwards += len(slots)

    def due(self, now_ms: int, tables: Tables) -> None:
        """See `Design`."""
        if now_ms in self.timeline.ready_ms:
            version = int(self.timeline.newest(now_ms)[0])
            self.shown.write(self.shown.take(tables, self.all_slots, version))
            self.costs.bulk_forwards += len(self.shown)

    def query_codes(self, at_ms: Ints, users: Ints) -> Codes:
        """See `Design`."""
        return self.timeline.newest(at_ms)

    def servable_ms(self, arrived_ms: Ints) -> Ints:
        """See `Design`."""
        return arrived_ms


class Released(Common):
    """Ours: whole releases of one version; a candidate goes live when it is complete.

    From the moment it is ready the workers embed each change with both towers and everything else is
    embedded once; the next hourly cut finds it complete. With `delta` a server folds rows of its release's
    version in as they come; without, rows wait for the next cut.
    """

    def __init__(self, name: str, timeline: Timeline, shown: Shown, *, delta: bool = True) -> None:
        super().__init__(name, timeline, shown)
        took = timeline.measured
        self._delta = delta
        self._cuts = set(timeline.hours())
        self.swaps_ms = tuple(
            int(next_hour(ready + took.backfill)) + took.release for ready in timeline.ready_ms
        )
        self._changed = np.zeros(len(shown), bool)
        self._waiting = Waiting()

    def moments(self) -> set[int]:
        """See `Design`."""
        return (
            self._cuts
            | {cut + self.timeline.measured.release for cut in self._cuts}
            | set(self.swaps_ms)
            | set(self.timeline.ready_ms)
        )

    def serving(self, at_ms: Ints | int) -> Codes:
        """The version of the live release."""
        return code_at(self.swaps_ms, at_ms)

    def rows(self, now_ms: int, slots: Slots, arrived_ms: Ints, tables: Tables) -> None:
        """See `Design`."""
        live = int(self.serving(now_ms - 1)[0])
        self.costs.update_forwards += len(slots)
        if int(self.timeline.newest(now_ms - 1)[0]) > live:
            self.costs.update_forwards += len(slots)
            self.costs.dual_forwards += len(slots)
        if self._delta:
            self.shown.write(self.shown.take(tables, slots, live))
        else:
            self._changed[slots] = True

    def due(self, now_ms: int, tables: Tables) -> None:
        """See `Design`."""
        if now_ms in self.timeline.ready_ms:
            self.costs.bulk_forwards += len(self.shown)
        if now_ms in self._cuts:
            self.costs.releases += 1
            self._cut(now_ms, tables)
        for patch in self._waiting.due(now_ms):
            self.shown.write(patch)
        if self._delta and now_ms in self.swaps_ms:
            live = int(self.serving(now_ms)[0])
            self.shown.write(self.shown.take(tables, self.all_slots, live))

    def _cut(self, now_ms: int, tables: Tables) -> None:
        if self._delta:
            return  # the delta shows those rows already
        shown_ms = now_ms + self.timeline.measured.release
        live, before = int(self.serving(shown_ms)[0]), int(self.serving(shown_ms - 1)[0])
        slots = self.all_slots if live != before else np.flatnonzero(self._changed)
        self._waiting.put(shown_ms, self.shown.take(tables, slots, live))
        self._changed[:] = False

    def query_codes(self, at_ms: Ints, users: Ints) -> Codes:
        """See `Design`: the release's own."""
        return self.serving(at_ms)

    def servable_ms(self, arrived_ms: Ints) -> Ints:
        """See `Design`."""
        took, ready = self.timeline.measured, arrived_ms + self.timeline.measured.enrich
        if not self._delta:
            return next_hour(ready) + took.release
        return next_multiple(ready, self.timeline.settings.refresh_ms) + took.refresh
