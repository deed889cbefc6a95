"""The Pins of one release behind a root: they lie on leaves, and one request sees what these answer it."""

import threading

import numpy as np

from features.shard_slices import Shard
from schemas.errors import Refused
from schemas.manifests import ReleaseManifest
from schemas.ranking import Coverage

from .gather import Merged, merge
from .inventory import Described, Floats, Found, Rows
from .leaf_search import picked
from .ledger import SpendLedger
from .remote_leaves import Leaves
from .shard_wire import Question, encode_question


class Unanswerable(Refused):
    """No shard answered: there is nothing to choose from."""

    def __init__(self, shards: int) -> None:
        super().__init__(
            "no_shard_answered",
            expected=f"an answer of at least one of {shards} shards",
            came="none in time",
            fix="Start the leaves (`skewless leaf --shard 1/n`); GET /v1/shards says what is wrong.",
        )


_NOTHING = np.empty(0, np.int64), np.empty(0, np.int64)


class SpentOut:
    """Pins that ran out of budget, by day, as this root's auctions saw it, and what each had spent by then.

    It goes to the leaves with every question. A leaf holds the spend against the budget that it knows, so
    a Pin whose budget was raised comes back by itself.
    """

    def __init__(self, ledger: SpendLedger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._days: dict[int, dict[int, int]] = {}
        self._columns: dict[tuple[int, Shard], tuple[Rows, Rows]] = {}

    def add(self, day: int, pins: Rows) -> None:
        """These Pins cannot pay their bid any more on `day`."""
        names = pins.tolist()
        spent, kept = self._ledger.spent(day, names), {day, *self._ledger.days()}
        with self._lock:
            self._days.setdefault(day, {}).update(zip(names, spent, strict=True))
            # What the ledger has forgotten is not held against anybody.
            self._days = {one: by_pin for one, by_pin in self._days.items() if one in kept}
            self._columns.clear()

    def of(self, day: int, shard: Shard) -> tuple[Rows, Rows]:
        """Pins of one shard, and micros that each has spent."""
        with self._lock:
            by_pin = self._days.get(day)
            if by_pin is None:
                return _NOTHING
            found = self._columns.get((day, shard))
            if found is None:
                pins = np.fromiter(by_pin.keys(), np.int64, len(by_pin))
                micros = np.fromiter(by_pin.values(), np.int64, len(by_pin))
                own = shard.holds(pins)
                found = self._columns[day, shard] = pins[own], micros[own]
        return found


class RemoteInventory:
    """One request's view of a release on leaves. See `serving.inventory.Inventory`; `search` comes first."""

    def __init__(self, leaves: Leaves, manifest: ReleaseManifest, spent_out: SpentOut) -> None:
        self._leaves, self._manifest, self._spent_out = leaves, manifest, spent_out
        self._merged: Merged | None = None

    @property
    def versions(self) -> list[str]:
        """See `Inventory`: what the shards that answered said."""
        return self._found().versions

    def search(self, query: Floats, age_band: int, at_ms: int, width: int) -> Found:
        """See `Inventory`. Raises Unanswerable when no shard answers in time."""
        day = SpendLedger.day_of(at_ms)

        def body(shard: Shard) -> bytes:
            pins, micros = self._spent_out.of(day, shard)
            return encode_question(
                Question(self._manifest.release_id, query, age_band, at_ms, width, pins, micros)
            )

        answers = self._leaves.ask(self._manifest, body)
        shards = len(self._leaves.shards)
        if not answers:
            raise Unanswerable(shards)
        merged = self._merged = merge(answers, shards, width)
        rows = np.arange(len(merged.dots), dtype=np.int64)
        return Found(rows, merged.dots, merged.eligible, merged.total, merged.dropped)

    def describe(self, rows: Rows) -> Described:
        """See `Inventory`."""
        return picked(self._found().pins, rows)

    def titles(self, rows: Rows) -> list[str]:
        """See `Inventory`."""
        titles = self._found().titles
        return [titles[row].as_py() for row in rows.tolist()]

    def logged(self, rows: Rows) -> Rows:
        """See `Inventory`: as the leaves said with their answers, out of the view that they answered from."""
        return self._found().logged_of(rows)

    def exhaust(self, day: int, rows: Rows) -> None:
        """See `Inventory`."""
        self._spent_out.add(day, self._found().pins.pin_id[rows])

    def coverage(self) -> Coverage:
        """See `Inventory`."""
        return self._found().coverage

    def _found(self) -> Merged:
        if self._merged is None:
            raise RuntimeError("rows of a remote inventory are asked about after its search")
        return self._merged
