"""The Pins of a release with the delta segment over them, as one request sees them.

Rows 0 to N-1 are the release's, from N on the overlay's. A view is immutable but for budgets that run out;
a refresh makes another one.
"""

import threading

import numpy as np

from index.delta import DeltaSegment
from index.delta_fold import Base
from schemas.ranking import Coverage

from .fresh_masks import FreshMasks
from .inventory import Described, Floats, Found, LoggedPin, Rows
from .local_inventory import Ads, LocalInventory, Standing, described, exact_dots, logged_fields


class FreshInventory:
    """See `serving.inventory.Inventory`."""

    def __init__(self, base: LocalInventory, segment: DeltaSegment, masks: FreshMasks) -> None:
        self._base = base
        self._rows = len(base)
        self.segment = segment
        self.masks = masks
        self._ads = Ads(segment.attributes)
        self._versions = base.versions
        if segment.tower_version not in self._versions:
            self._versions = [*self._versions, segment.tower_version]
        self._code = self._versions.index(segment.tower_version)

    @property
    def versions(self) -> list[str]:
        """See `Inventory`."""
        return self._versions

    def search(self, query: Floats, age_band: int, at_ms: int, width: int) -> Found:
        """See `Inventory`. Exact over the overlay; of equal dot products the lower Pin id is better."""
        mask, index = self.masks.mask(age_band, at_ms), self._base.index
        near, rows = index.search(query, width, mask.bitmap)
        # What is worse than the last of a full list cannot get on it.
        at_least = float(near.min()) if len(near) == width else -np.inf
        places = self.segment.best(query, mask.overlay, width, at_least)
        vectors = index.vectors.take(rows, axis=0)
        if len(places):
            vectors = np.concatenate([vectors, self.segment.vectors[places]])
            rows = np.concatenate([rows, self._rows + places])
        dots = exact_dots(vectors, query)
        if len(places):
            best = np.lexsort((self._pins(rows), -dots))[:width]
            rows, dots = rows[best], dots[best]
        total = self._rows - len(self.segment.superseded) + len(mask.overlay)
        dropped = dict(mask.dropped)
        dropped["not_retrieved"] = total - sum(dropped.values()) - len(rows)
        return Found(
            rows=rows,
            dots=dots,
            eligible=mask.allows(rows, self._rows),
            total=total,
            dropped={reason: count for reason, count in dropped.items() if count},
        )

    def describe(self, rows: Rows) -> Described:
        """See `Inventory`."""
        slots = self.segment.slots(rows, self._rows)
        fresh = slots >= 0
        if not fresh.any():
            return self._base.describe(rows)
        fields = np.empty((len(rows), 4), np.int64)
        fields[fresh], fields[~fresh] = self._ads.take(slots[fresh]), self._base.fields(rows[~fresh])
        versions = np.full(len(rows), self._code, np.uint8)
        of_base = rows < self._rows
        versions[of_base] = self._base.index.version_code[rows[of_base]]
        return described(fields, versions, fresh)

    def titles(self, rows: Rows) -> list[str]:
        """See `Inventory`."""
        slots = self.segment.slots(rows, self._rows)
        unchanged = iter(self._base.titles(rows[slots < 0]))
        return [self.segment.titles[slot] if slot >= 0 else next(unchanged) for slot in slots.tolist()]

    def logged(self, rows: Rows) -> Rows:
        """See `Inventory`: of a row that has changed, what the segment says."""
        slots = self.segment.slots(rows, self._rows)
        fresh = slots >= 0
        if not fresh.any():
            return self._base.logged(rows)
        fields = np.empty((len(rows), len(LoggedPin._fields)), np.int64)
        fields[fresh] = logged_fields(self.segment.attributes, slots[fresh])
        fields[~fresh] = self._base.logged(rows[~fresh])
        return fields

    def standing(self, pin_id: int, age_band: int, at_ms: int) -> Standing | None:
        """How a Pin stands for this age band at this moment; None for one that is not there."""
        row = self._base.row_of(pin_id)
        overlay = self._ads.pin_id[self.segment.overlay_start :]
        place = int(overlay.searchsorted(pin_id))
        if place < len(overlay) and overlay[place] == pin_id:
            rule = self.masks.rule(self._rows + place, age_band, at_ms)
            return Standing(rule, self.segment.vectors[place], "new" if row < 0 else "superseded")
        if row < 0:
            return None
        is_patched = self.segment.slots(np.array([row]), self._rows)[0] >= 0
        rule = self.masks.rule(row, age_band, at_ms)
        return Standing(rule, self._base.index.vectors[row], "patched" if is_patched else None)

    def exhaust(self, day: int, rows: Rows) -> None:
        """See `Inventory`."""
        self.masks.exhaust(day, rows)

    def coverage(self) -> Coverage:
        """See `Inventory`."""
        counts = self.segment.counts
        return Coverage(pins=self._rows + counts.new, fresh_pins=counts.overlay + counts.patched)

    def _pins(self, rows: Rows) -> Rows:
        of_base = rows < self._rows
        pins = np.empty(len(rows), np.int64)
        pins[of_base] = self._base.pin_ids(rows[of_base])
        pins[~of_base] = self._ads.pin_id[rows[~of_base] - self._rows + self.segment.overlay_start]
        return pins


class Shelf:
    """Holds the view that a request takes: the one reference that a refresh replaces."""

    def __init__(self, local: LocalInventory) -> None:
        self._local = local
        self._changing = threading.Lock()
        self.view: LocalInventory | FreshInventory = local
        self.closed = False
        """Whether the release has let go of its rows."""

    def base(self) -> Base | None:
        """The release's rows, as a delta segment is built against them; None once it is closed."""
        return self._local.base()

    def refresh(self, segment: DeltaSegment) -> None:
        """Lay another segment over the release, unless that is closed: nobody sees half of it."""
        with self._changing:
            if self.closed:
                return
            masks = FreshMasks(self._local.eligibility, len(self._local), segment)
            if isinstance(self.view, FreshInventory):
                masks.make_as(self.view.masks)
            self.view = FreshInventory(self._local, segment, masks)

    def close(self) -> None:
        """Let go of the segment and of what was made of the rows. Before the index lets go of its rows."""
        with self._changing:
            self.closed, self.view = True, self._local
            self._local.close()
