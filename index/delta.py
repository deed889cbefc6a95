"""The delta segment: what is newer than a release's snapshots, laid over the release's own rows.

Immutable. A row of the release whose Pin has newer attributes is *patched*: it keeps its place in the
index, and its attributes are read here. A Pin with a newer embedding of the release's own tower version,
or one that the release has never seen, is a row of the *overlay*; a row that it replaces is *superseded*.
Rows of other tower versions give attributes and nothing else.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.pin_state import STATUS_CODES
from schemas.errors import Refused

from .delta_fold import Base, DeltaFold
from .row_files import Attributes, Matrix

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

_ROUNDING = 1e-5
"""Room for what float32 sums differ by, as a share of the longest possible dot product."""


_FP16_EXPONENT = np.uint16(0x7C00)
"""All bits set: infinity or NaN."""


@dataclass(frozen=True)
class DeltaCounts:
    """What a segment is made of. All are Pins."""

    overlay: int = 0
    """With an embedding of their own here."""
    new: int = 0
    """Of these, Pins that the release does not have."""
    superseded: int = 0
    """Of these, Pins whose row of the release is replaced."""
    patched: int = 0
    """Rows of the release with newer attributes and their own embedding."""
    deleted: int = 0
    """Of the patched, Pins that are deleted."""
    waiting: int = 0
    """Pins that the release does not have, without an embedding of its tower version: not servable yet."""
    refused: int = 0
    """Rows whose embedding found no room: the Pin keeps its older one, or is not servable yet."""


@dataclass(frozen=True, eq=False)
class DeltaSegment:
    """What has changed, against one release. The first `len(patched)` rows of `attributes` are patches in
    the order of their row in the release; the overlay's follow, in the order of their Pin ids.
    """

    tower_version: str
    attributes: Attributes
    """The newest of each Pin, ATTRIBUTES [P + M]."""
    titles: list[str]
    patched: Ints
    """Rows of the release, ascending [P]."""
    superseded: Ints
    """Rows of the release, ascending."""
    vectors: Matrix
    """Of the overlay, fp16 [M, D], all of `tower_version`."""
    counts: DeltaCounts
    newest_ingest_ms: int
    _widened: Floats
    """The same in float32: a product with all of them and a threshold beat a scan that keeps a heap."""
    _longest: float

    def __len__(self) -> int:
        return len(self.attributes)

    @property
    def overlay_start(self) -> int:
        """Where the overlay's rows begin in `attributes`."""
        return len(self.patched)

    def slots(self, rows: Ints, base_rows: int) -> Ints:
        """Where each row's attributes stand in `attributes`, or -1 for a row that has not changed.

        Rows below `base_rows` are the release's, the others the overlay's.
        """
        slots = np.where(rows >= base_rows, rows - base_rows + self.overlay_start, -1)
        if len(self.patched):
            places = np.minimum(self.patched.searchsorted(rows), len(self.patched) - 1)
            slots = np.where(self.patched[places] == rows, places, slots)
        return slots

    def best(self, query: Floats, allowed: npt.NDArray[np.bool_], k: int, at_least: float) -> Rows:
        """Rows of the overlay, in no order: a superset of its `k` best allowed ones of at least this dot."""
        dots = self._widened @ query
        slack = _ROUNDING * self._longest * float(np.sqrt(query @ query))
        found: Rows = np.flatnonzero(allowed & (dots >= at_least - slack))
        if len(found) > k > 0:
            worst = np.partition(dots[found], -k)[-k]
            found = found[dots[found] >= worst - slack]
        return found


def build_segment(fold: DeltaFold, base: Base, dimension: int) -> DeltaSegment:
    """What the fold knows that is newer than `base`, whose vectors have this dimension.

    Raises Refused (`mixed_versions`, `wrong_dimension`, `not_finite`): an overlay is proved like an index.
    """
    fields = fold.attributes()
    rows, newest = base.outdated(fields)
    overlay, vectors, mask = _overlay(fold, base, dimension)
    gone = fields["status"] == STATUS_CODES["deleted"]
    in_overlay = np.zeros(len(fields), np.bool_)
    in_overlay[overlay] = True
    # A deleted Pin needs no vector: patching its row keeps it out, and without a row it is nowhere.
    kept = ~gone[overlay]
    in_overlay &= ~gone
    order = np.flatnonzero(kept)[np.argsort(fields["pin_id"][overlay[kept]])]
    overlay, vectors, mask = overlay[order], vectors[order], mask[order]
    patches = np.flatnonzero(newest & (rows >= 0) & ~in_overlay)
    patches = patches[np.argsort(rows[patches])]
    attributes = fields[np.concatenate([patches, overlay])]
    attributes["input_mask"][: len(patches)] = base.attributes["input_mask"][rows[patches]]
    attributes["input_mask"][len(patches) :] = mask
    titles = fold.titles()
    replaced = np.sort(rows[overlay][rows[overlay] >= 0])
    widened = vectors.astype(np.float32)
    return DeltaSegment(
        tower_version=base.tower_version,
        attributes=attributes,
        titles=[titles[slot] for slot in np.concatenate([patches, overlay]).tolist()],
        patched=rows[patches],
        superseded=replaced,
        vectors=vectors,
        counts=DeltaCounts(
            overlay=len(overlay),
            new=len(overlay) - len(replaced),
            superseded=len(replaced),
            patched=len(patches),
            deleted=int(gone[patches].sum()),
            waiting=int((newest & (rows < 0) & ~in_overlay & ~gone).sum()),
            refused=fold.refused.get(base.tower_version, 0),
        ),
        newest_ingest_ms=int(attributes["ingested_at_ms"].max(initial=0)),
        _widened=widened,
        _longest=float(np.sqrt((widened * widened).sum(axis=1).max(initial=0.0))),
    )


def _overlay(fold: DeltaFold, base: Base, dimension: int) -> tuple[Rows, Matrix, Ints]:
    """Of each newer embedding: where its Pin stands in the fold's attributes, vector and input mask."""
    if base.tower_version not in fold.versions:
        return np.empty(0, np.intp), np.empty((0, dimension), np.float16), np.empty(0, np.int64)
    embedded, vectors = fold.embeddings(base.tower_version)
    if vectors.shape[1] != dimension:
        fix = "Rows of this tower version were made by another model: look at what produces them."
        raise Refused("wrong_dimension", f"{dimension} dimensions", str(vectors.shape[1]), fix)
    newer = np.flatnonzero(base.outdated(embedded)[1])
    histogram = fold.histogram(base.tower_version, newer)
    if list(histogram) not in ([], [base.tower_version]):
        came = ", ".join(f"{count} of {version}" for version, count in sorted(histogram.items()))
        fix = "This is a fault of ours: keep the log, restart the server, report it."
        raise Refused("mixed_versions", f"an overlay of {base.tower_version} only", came, fix)
    vectors = vectors[newer]
    if ((vectors.view(np.uint16) & _FP16_EXPONENT) == _FP16_EXPONENT).any():
        fix = "The tower or its input is broken: look at the worker that embedded them."
        raise Refused("not_finite", "finite embeddings", "NaN or infinity in the overlay", fix)
    return fold.slots(embedded["pin_id"][newer]), vectors, embedded["input_mask"][newer]
