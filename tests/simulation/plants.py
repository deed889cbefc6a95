"""The mistakes behind `planted_bugs`: each puts a wrong version in the place of a right one for a while.

A plant takes the original and gives what stands in for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from features.store import Records
from index import embedding_table
from streams import state_flush
from streams.embedded_rows import EmbeddedRows
from streams.embedded_tiers import EVERY_PIN
from streams.enrichment import Enriched
from streams.outlet import Outlet
from streams.positions import Start
from streams.state_rows import StateRows
from streams.worker import EnrichmentWorker

from .patching import replaced

Plant = Callable[[], AbstractContextManager[None]]


def replacing(owner: Any, name: str, change: Callable[[Any], Any]) -> Plant:
    """A plant that puts `change(original)` in place of an attribute."""

    @contextmanager
    def plant() -> Iterator[None]:
        with replaced(owner, name, change(getattr(owner, name))):
            yield

    return plant


def commit_first(step: Any) -> Any:
    def planted(self: Any, fetched: Any, towers: Any) -> None:
        self._intake.commit(fetched.offsets, wait=True)
        step(self, fetched, towers)

    return planted


def commit_unacknowledged(settle: Any) -> Any:
    def planted(self: Any, **how: Any) -> None:
        self._intake.commit(self._in_flight.offsets, wait=True)
        settle(self, **how)

    return planted


def two_writes(put_many: Any) -> Any:
    def planted(
        self: Any, ids: Any, records: Any, tails: Any, meta: Mapping[str, bytes] | None = None
    ) -> None:
        if meta and len(ids):
            put_many(self, ids[:0], records[:0], [], meta)
            meta = None
        put_many(self, ids, records, tails, meta)

    return planted


@contextmanager
def letters_after_the_commit() -> Iterator[None]:
    produce, settle = Outlet.produce_letters, EnrichmentWorker._settle

    def keep(self: Any, letters: Sequence[Any]) -> None:
        self.late = [*getattr(self, "late", ()), *letters]

    def planted(self: Any, **how: Any) -> None:
        late, self._outlet.late = getattr(self._outlet, "late", []), []
        settle(self, **how)
        produce(self._outlet, late)

    with replaced(Outlet, "produce_letters", keep), replaced(EnrichmentWorker, "_settle", planted):
        yield


@contextmanager
def last_arrival_wins() -> Iterator[None]:
    def always(one: Any, other: Any) -> Any:
        return np.ones(len(one), np.bool_)

    def by_arrival(fields: Any) -> Any:
        return np.argsort(fields["pin_id"], kind="stable")

    with (
        replaced(embedding_table, "newer", always),
        replaced(embedding_table, "_by_pin_and_age", by_arrival),
    ):
        yield


def only_what_changed(enrich: Any) -> Any:
    def planted(batches: Any, store: Any, *others: Any) -> Enriched:
        done: Enriched = enrich(batches, store, *others)
        before, found, _ = store.get_many(done.pin_ids)
        changed = ~found
        for name in ("changed_offset", "aggregated_offset"):
            changed |= before[name] != done.records[name]
        chosen = frozenset(done.pin_ids[changed].tolist())
        return replace(done, rows=[_chosen(rows, chosen) for rows in done.rows])

    return planted


def _chosen(rows: EmbeddedRows, pins: frozenset[int]) -> EmbeddedRows:
    places = [place for place, value in enumerate(rows.values) if orjson.loads(value)["pin_id"] in pins]
    return replace(
        rows,
        keys=[rows.keys[place] for place in places],
        values=[rows.values[place] for place in places],
        partitions=[rows.partitions[place] for place in places],
    )


def from_the_groups_offset(plan: Any) -> Any:
    def planted(committed: int, stored: int | None, checkpoint: int | None, low: int) -> Start:
        start: Start = plan(committed, stored, checkpoint, low)
        return replace(start, offset=max(committed, low, 0))

    return planted


def from_the_stores_offset(plan: Any) -> Any:
    def planted(committed: int, stored: int | None, checkpoint: int | None, low: int) -> Start:
        start: Start = plan(committed, stored, checkpoint, low)
        return replace(start, offset=max(start.offset, start.known))

    return planted


def silent_below_the_store(plan: Any) -> Any:
    def planted(committed: int, stored: int | None, checkpoint: int | None, low: int) -> Start:
        start: Start = plan(committed, stored, checkpoint, low)
        return replace(start, silent_until=max(start.silent_until, start.known))

    return planted


def checkpoint_too_early(settle: Any) -> Any:
    def planted(self: Any, **how: Any) -> None:
        self._produce_states(self._flush.next_checkpoints(), checkpoints=True)
        settle(self, **how)

    return planted


def covers_what_came_later(start: Any) -> Any:
    def planted(self: Any) -> None:
        start(self)
        self._run.covers = self._covered

    return planted


def named_without_a_flush(next_rows: Any) -> Any:
    def planted(self: Any, **how: Any) -> StateRows | None:
        early = [
            one.model_copy(update={"live": sorted(self._live[one.partition])})
            for one in self._checkpoints.values()
            if not self._live.get(one.partition, set()) <= set(one.live)
        ]
        self._checkpoints |= {one.partition: one for one in early}
        rows: StateRows | None = state_flush._checkpoint_rows(early) or next_rows(self, **how)
        return rows

    return planted


def silent_events_count_as_embedded(follow: Any) -> Any:
    def planted(self: Any, versions: Any, *, all_emitted: bool) -> None:
        follow(self, versions, all_emitted=True)

    return planted


def stays_named(retract: Any) -> Any:
    return lambda self, versions: None


def every_tier(chosen: Any) -> Any:
    return lambda self, pin_ids: None


def catches_up_as_if_all_were_embedded(fold_known: Any) -> Any:
    def planted(*arguments: Any) -> Any:
        return fold_known(*arguments[:-1], EVERY_PIN)

    return planted


def first_chunk_only(next_rows: Any) -> Any:
    def planted(self: Any, **how: Any) -> StateRows | None:
        rows: StateRows | None = next_rows(self, **how)
        if rows is not None:
            self._run.pin_ids = self._run.pin_ids[:0]
        return rows

    return planted


def stops_before_the_end(read: Any) -> Any:
    def planted(consumer: Any, topic: str, starts: Any, ends: Mapping[int, int], *others: Any) -> Any:
        return read(consumer, topic, starts, {number: end - 1 for number, end in ends.items()}, *others)

    return planted


def no_fence(check: Any) -> Any:
    return lambda self: None


def every_event_is_new(fold: Any) -> Any:
    def planted(records: Records, titles: Any, slots: Any, changes: Any, *others: Any) -> int:
        records[changes.source][slots] = -2
        done: int = fold(records, titles, slots, changes, *others)
        return done

    return planted


def nothing_is_awaited(wait: Any) -> Any:
    return lambda self: None
