"""Releases built by hand, and compared, for the command line."""

from collections.abc import Sequence

from index.builder import BuildReport
from index.differences import ReleaseDifferences, differences
from models.live_towers import complete_version, read_live_towers
from schemas.errors import Refused

from .releasing import BuildWish, build_from_snapshots, newest_snapshots
from .settings import Settings
from .store_connection import release_store

Row = dict[str, object]


def build_by_hand(
    settings: Settings, snapshot_ids: Sequence[str], *, tower: str | None, tolerate: bool
) -> BuildReport:
    """Build these snapshots, or the newest of every tier of the serving tower. Raises Refused."""
    if not snapshot_ids:
        serving = read_live_towers(settings.towers_dir)[:1]
        snapshot_ids = newest_snapshots(settings, serving[0], settings.tier) if serving else []
        if not snapshot_ids:
            came = f"none of tower {serving[0][:12]}" if serving else "no serving tower in LIVE"
            fix = "Name the snapshots, or cut some first."
            raise Refused("no_snapshot", f"snapshots in {settings.snapshots_dir}", came, fix)
    if tower is not None:
        tower = complete_version(settings.towers_dir, tower)
    wish = BuildWish("tolerate" if tolerate else "enforce", tower)
    return build_from_snapshots(settings, snapshot_ids, wish)


def differences_of(settings: Settings, first: str, second: str | None) -> ReleaseDifferences:
    """Compare two releases, the second being the live one where none is named. Raises Refused."""
    store = release_store(settings)
    second = second or store.current()
    if second is None:
        raise Refused("no_release", "a live release", "none", "Name both releases.")
    return differences(store.fetch(first), store.fetch(second))


def difference_rows(found: ReleaseDifferences) -> list[Row]:
    """One line a difference: what, and its value in either release."""
    rows = [_row(name, *pair) for name, pair in found.manifest.items()]
    for name, tier in found.tiers.items():
        rows += [_row(f"tier {name}: {what}", *_pair(tier[what])) for what in ("snapshots", "rows")]
    pins = found.pins
    for what in ("added", "removed", "reembedded", "other_version", "changed"):
        rows.append(_row(f"Pins {what}", "", getattr(pins, what)))
    rows += [_row(f"Pins with another {name}", "", count) for name, count in pins.attributes_changed.items()]
    return rows + [_row(f"check {name}", *pair) for name, pair in found.checks.items()]


def _pair(value: object) -> tuple[object, object]:
    assert isinstance(value, tuple)
    return value[0], value[1]


def _row(what: str, first: object, second: object) -> Row:
    return {"what": what, "first": first, "second": second}
