"""Shards' answers into one: each is checked against what was asked, then the best of all are taken."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.shard_slices import Shard
from schemas.manifests import ReleaseManifest
from schemas.ranking import Coverage

from .inventory import Described, Floats, Rows
from .shard_wire import Answer


@dataclass(frozen=True)
class Merged:
    """The best Pins of the shards that answered. Row i of every part is the same Pin, best first."""

    dots: Floats
    eligible: npt.NDArray[np.bool_]
    pins: Described
    titles: pa.StringArray
    versions: list[str]
    total: int
    dropped: dict[str, int]
    coverage: Coverage
    came: Rows
    """Where each Pin stood in all answers, one after the other."""
    logged: list[Rows]
    """Fields of `LoggedPin` of each answer, shape (Pins, 4): put in order only for the Pins that win."""

    def logged_of(self, rows: Rows) -> Rows:
        """Fields of `LoggedPin` of these Pins, shape (rows, 4)."""
        taken: Rows = np.concatenate(self.logged)[self.came[rows]]
        return taken


def misfit(answer: Answer, manifest: ReleaseManifest, shard: Shard) -> str | None:
    """Why an answer may not be used for this release, or None: every answer is held against the manifest.

    `other_shard`, `other_release`, `other_version` (of the release as a whole, or of any one Pin unless the
    release tolerates a mix), `malformed` (a Pin of another shard, or an impossible number).
    """
    facts = answer.facts
    if not facts.is_of(shard):
        return "other_shard"
    if facts.release_id != manifest.release_id:
        return "other_release"
    if facts.tower_version != manifest.tower_version:
        return "other_version"
    tagged = {facts.versions[code] for code in np.unique(answer.pins.version_code).tolist()}
    if manifest.version_policy == "enforce" and not tagged <= {manifest.tower_version}:
        return "other_version"
    if not (shard.holds(answer.pins.pin_id).all() and np.isfinite(answer.dots).all()):
        return "malformed"
    return None


def merge(answers: Sequence[Answer], shards: int, width: int) -> Merged:
    """The `width` highest dot products of all answers (at least one); ties go to the lower Pin id."""
    versions = sorted({version for one in answers for version in one.facts.versions})
    codes = [_recoded(one, versions) for one in answers]
    dots = np.concatenate([one.dots for one in answers])
    pins = np.concatenate([one.pins.pin_id for one in answers])
    order = np.lexsort((pins, -dots))[:width]
    dropped: dict[str, int] = {}
    for one in answers:
        for reason, count in one.facts.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    if len(order) < len(dots):
        dropped["not_retrieved"] = dropped.get("not_retrieved", 0) + len(dots) - len(order)

    def column(name: str) -> npt.NDArray[np.int64]:
        parts = [getattr(one.pins, name) for one in answers]
        joined: npt.NDArray[np.int64] = np.concatenate(parts)[order]
        return joined

    return Merged(
        dots=dots[order],
        eligible=np.concatenate([one.eligible for one in answers])[order],
        pins=Described(
            pin_id=pins[order],
            advertiser_id=column("advertiser_id"),
            bid_micros=column("bid_micros"),
            daily_budget_micros=column("daily_budget_micros"),
            version_code=np.concatenate(codes)[order],
            fresh=np.concatenate([one.pins.fresh for one in answers])[order],
        ),
        titles=pa.concat_arrays([one.titles for one in answers]).take(pa.array(order)),
        versions=versions,
        total=sum(one.facts.total for one in answers),
        dropped=dropped,
        coverage=Coverage(
            shards=shards,
            shards_answered=len(answers),
            pins=sum(one.facts.pins for one in answers),
            fresh_pins=sum(one.facts.fresh_pins for one in answers),
        ),
        came=order,
        logged=[one.logged for one in answers],
    )


def _recoded(answer: Answer, versions: list[str]) -> npt.NDArray[np.uint8]:
    """The answer's version codes as indices into `versions`."""
    places = np.array([versions.index(one) for one in answer.facts.versions], np.uint8)
    codes: Rows = answer.pins.version_code.astype(np.int64)
    recoded: npt.NDArray[np.uint8] = places[codes] if len(codes) else np.empty(0, np.uint8)
    return recoded
