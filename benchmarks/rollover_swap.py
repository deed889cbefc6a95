"""What one release brought, took back or lost beside the one that it replaced, Pin by Pin."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from index.row_files import ATTRIBUTES_FILE

ROWS = np.dtype(
    [("pin_id", "<i8"), ("changed_offset", "<i8"), ("aggregated_offset", "<i8"), ("ingested_at_ms", "<i8")]
)
"""What tells how new a Pin's row is: offsets of its last events, and the broker's time of the newest."""

Rows = npt.NDArray[np.void]


@dataclass(frozen=True)
class Published:
    """A release, the moment CURRENT moved to it, and its rows (ROWS, one a Pin, in any order)."""

    release_id: str
    at_ms: int
    rows: Rows

    def newest_event_age_seconds(self, at_ms: int) -> float | None:
        """How long before `at_ms` the newest event of all rows came to the broker; None without rows."""
        if not len(self.rows):
            return None
        return round((at_ms - int(self.rows["ingested_at_ms"].max())) / 1000, 2)


@dataclass(frozen=True)
class Difference:
    """A release beside the one before it. A Pin that came anew counts as newer."""

    newer_ingested_ms: npt.NDArray[np.int64]
    """The broker's time of each row that is newer than the Pin's row before."""
    gone_back: int
    """Pins whose row is older than before."""
    missing: int
    """Pins that had a row before and have none now."""

    def seconds_to_servable(self, at_ms: int) -> list[float]:
        """From the broker's time of each newer row to the publication at `at_ms`."""
        seconds: list[float] = (np.maximum(at_ms - self.newer_ingested_ms, 0) / 1000).tolist()
        return seconds


def read_release_rows(directory: Path) -> Rows:
    """The ROWS of a release's directory, without its vectors and titles."""
    names = list(ROWS.names or ())
    table = pq.read_table(directory / ATTRIBUTES_FILE, columns=names, use_threads=False)
    rows: Rows = np.empty(table.num_rows, ROWS)
    for name in names:
        rows[name] = table[name].to_numpy()
    return rows


def difference(old: Rows, new: Rows) -> Difference:
    """Compare two releases by Pin.

    A row is older when either offset or the broker's time went back, whatever else went forward.
    """
    old = old[np.argsort(old["pin_id"], kind="stable")]
    new = new[np.argsort(new["pin_id"], kind="stable")]
    place = np.searchsorted(old["pin_id"], new["pin_id"])
    known = np.zeros(len(new), np.bool_)
    inside = place < len(old)
    known[inside] = old["pin_id"][place[inside]] == new["pin_id"][inside]
    was, now = old[place[known]], new[known]
    back, forward = np.zeros(len(now), np.bool_), np.zeros(len(now), np.bool_)
    for name in ("changed_offset", "aggregated_offset", "ingested_at_ms"):
        back |= now[name] < was[name]
    for name in ("changed_offset", "aggregated_offset"):
        forward |= now[name] > was[name]
    came = np.concatenate([now["ingested_at_ms"][forward & ~back], new["ingested_at_ms"][~known]])
    return Difference(came, int(back.sum()), len(old) - len(now))


def swap_figures(replaced: Published, new: Published) -> dict[str, Any]:
    """What happened when the candidate's first release replaced the last one of the serving tower.

    `newest_event_age_seconds` is a release's staleness as a whole: the age of the newest event in it, of each
    at its own publication, and of the replaced one also when it was replaced.
    """
    found = difference(replaced.rows, new.rows)
    return {
        "replaced": replaced.release_id,
        "by": new.release_id,
        "seconds_between": round((new.at_ms - replaced.at_ms) / 1000, 2),
        "rows_gone_back": found.gone_back,
        "rows_missing": found.missing,
        "rows_newer": len(found.newer_ingested_ms),
        "newest_event_age_seconds": {
            "replaced_at_its_publication": replaced.newest_event_age_seconds(replaced.at_ms),
            "replaced_at_the_swap": replaced.newest_event_age_seconds(new.at_ms),
            "new_at_the_swap": new.newest_event_age_seconds(new.at_ms),
        },
    }
