"""The designs that ours is compared with, each with the settings that are kindest to it."""

import numpy as np

from .freshness_skew_clock import HOUR_MS, Codes, Ints, Timeline, code_at, next_hour, uniform
from .freshness_skew_designs import Common
from .freshness_skew_rows import Shown, Slots, Tables, Waiting


class IndexInCheckpoint(Common):
    """The trainer embeds everything when it saves a checkpoint, and serving loads the index from there.

    As described in xai-org/x-algorithm, phoenix/README.md («Index in the checkpoint», 2026).
    """

    def __init__(self, name: str, timeline: Timeline, shown: Shown) -> None:
        super().__init__(name, timeline, shown)
        self._took_ms = timeline.measured.backfill + timeline.measured.release
        self.swaps_ms = tuple(ready + self._took_ms for ready in timeline.ready_ms)
        self._waiting = Waiting()

    def moments(self) -> set[int]:
        """See `Design`."""
        return set(self.timeline.ready_ms) | set(self.swaps_ms)

    def rows(self, now_ms: int, slots: Slots, arrived_ms: Ints, tables: Tables) -> None:
        """See `Design`: nobody looks at them until the next checkpoint."""

    def due(self, now_ms: int, tables: Tables) -> None:
        """See `Design`."""
        if now_ms in self.timeline.ready_ms:
            version = int(self.timeline.newest(now_ms)[0])
            self._waiting.put(now_ms + self._took_ms, self.shown.take(tables, self.all_slots, version))
            self.costs.bulk_forwards += len(self.shown)
            self.costs.releases += 1
        for patch in self._waiting.due(now_ms):
            self.shown.write(patch)

    def query_codes(self, at_ms: Ints, users: Ints) -> Codes:
        """See `Design`."""
        return code_at(self.swaps_ms, at_ms)

    def servable_ms(self, arrived_ms: Ints) -> Ints:
        """See `Design`."""
        return self.timeline.next_ready(arrived_ms) + self._took_ms


class HourlyUnion(Common):
    """Each hour's shard holds what was embedded in it; the last N are searched together, as they are.

    As `HourlyShardedIndex` in twitter/the-algorithm (2023): no version is looked at. Settings kinder than
    that code: of a Pin's rows only the newest is searched, and every Pin is embedded anew once in N hours,
    so that the last N shards hold all of them.
    """

    def __init__(self, name: str, timeline: Timeline, shown: Shown) -> None:
        super().__init__(name, timeline, shown)
        vectors = None if shown.vectors is None else shown.vectors.copy()
        self._written = Shown(len(shown), vectors)
        self._in_shard = np.zeros(len(shown), bool)
        self._hours = set(timeline.hours())
        self._waiting = Waiting()

    def moments(self) -> set[int]:
        """See `Design`."""
        return (
            self._hours
            | {hour + self.timeline.measured.shard for hour in self._hours}
            | set(self.timeline.ready_ms)
        )

    def rows(self, now_ms: int, slots: Slots, arrived_ms: Ints, tables: Tables) -> None:
        """See `Design`."""
        self._embed(now_ms, slots, tables)
        self.costs.update_forwards += len(slots)

    def _embed(self, now_ms: int, slots: Slots, tables: Tables) -> None:
        version = int(self.timeline.newest(now_ms - 1)[0])
        self._written.write(self._written.take(tables, slots, version))
        self._in_shard[slots] = True

    def due(self, now_ms: int, tables: Tables) -> None:
        """See `Design`."""
        if now_ms in self._hours:
            every = self.timeline.settings.union_hours
            hour = int(next_hour(now_ms)) // HOUR_MS
            turn = self.all_slots[self.all_slots % every == hour % every]
            self.costs.bulk_forwards += len(turn) - int(self._in_shard[turn].sum())
            self._embed(now_ms, turn[~self._in_shard[turn]], tables)
            patch = self._written.part(np.flatnonzero(self._in_shard))
            self._waiting.put(now_ms + self.timeline.measured.shard, patch)
            self._in_shard[:] = False
            self.costs.shards += 1
        for patch in self._waiting.due(now_ms):
            self.shown.write(patch)

    def query_codes(self, at_ms: Ints, users: Ints) -> Codes:
        """See `Design`: the newest tower."""
        return self.timeline.newest(at_ms)

    def servable_ms(self, arrived_ms: Ints) -> Ints:
        """See `Design`."""
        took = self.timeline.measured
        return next_hour(arrived_ms + took.enrich) + took.shard


class AliasSwap(Common):
    """A second collection is filled with the new tower, then the alias moves; query clients have the model.

    As vector databases' migration guides have it (Qdrant, «Migrate to a New Embedding Model with Zero
    Downtime»): everything is embedded anew and updates go to both collections until the switch. The query
    clients and the workers get the new tower by rolling deployments of their own, with the switch in the
    middle of each; a worker writes through the alias with the tower that it has.
    """

    def __init__(self, name: str, timeline: Timeline, shown: Shown) -> None:
        super().__init__(name, timeline, shown)
        self.switches_ms = tuple(ready + timeline.settings.alias_after_ms for ready in timeline.ready_ms)
        self._worker_lead_ms = self._lead(self.all_slots, timeline.settings.worker_roll_ms, salt=1)

    @staticmethod
    def _lead(ids: Ints, roll_ms: int, salt: int) -> Ints:
        """How much later than the switch each of them gets the new tower; before it where negative."""
        return np.rint((uniform(ids, salt) - 0.5) * roll_ms).astype(np.int64)

    def moments(self) -> set[int]:
        """See `Design`."""
        half = self.timeline.settings.worker_roll_ms // 2
        around = {switch + offset for switch in self.switches_ms for offset in (-half, 0, half)}
        return around | set(self.timeline.ready_ms)

    def rows(self, now_ms: int, slots: Slots, arrived_ms: Ints, tables: Tables) -> None:
        """See `Design`."""
        codes = code_at(self.switches_ms, arrived_ms - self._worker_lead_ms[slots])
        self.shown.write(self.shown.take(tables, slots, codes))
        self.costs.update_forwards += len(slots)
        if self.timeline.newest(now_ms - 1)[0] > code_at(self.switches_ms, now_ms - 1)[0]:
            self.costs.update_forwards += len(slots)
            self.costs.dual_forwards += len(slots)

    def due(self, now_ms: int, tables: Tables) -> None:
        """See `Design`."""
        if now_ms in self.timeline.ready_ms:
            self.costs.bulk_forwards += len(self.shown)
            self.costs.releases += 1
        if now_ms in self.switches_ms:
            version = int(code_at(self.switches_ms, now_ms)[0])
            self.shown.write(self.shown.take(tables, self.all_slots, version))

    def query_codes(self, at_ms: Ints, users: Ints) -> Codes:
        """See `Design`: the tower that this client has."""
        lead = self._lead(users, self.timeline.settings.client_roll_ms, salt=2)
        return code_at(self.switches_ms, at_ms - lead)

    def servable_ms(self, arrived_ms: Ints) -> Ints:
        """See `Design`."""
        return arrived_ms + self.timeline.measured.enrich
