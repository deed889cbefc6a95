"""The shards of a run of the batch embedder, joined into the rows of one snapshot."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from index.snapshots import SnapshotRows
from schemas.embedding_runs import EmbeddingRun
from schemas.errors import Refused
from schemas.times import HOUR_MS


def joined_rows(parts: Sequence[SnapshotRows], tower_version: str) -> SnapshotRows:
    """The rows of all shards, one a Pin. Raises Refused (`mixed_versions`) for rows of another tower."""
    if strangers := {version for one in parts for version in one.versions} - {tower_version}:
        fix = "Move the run's directory away from `embeddings`, then embed again."
        came = ", ".join(sorted(strangers))
        raise Refused("mixed_versions", f"shards of tower {tower_version}", came, fix)
    rows = SnapshotRows(
        attributes=np.concatenate([part.attributes for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
        versions=[tower_version],
        version_code=np.zeros(sum(map(len, parts)), np.uint8),
        titles=pa.concat_arrays([part.titles for part in parts]),
    )
    return _one_row_per_pin(rows)


def run_hour_ms(run: EmbeddingRun, rows: SnapshotRows) -> int:
    """The hour of the newest event, or of the run's start where hours are the wall clock's."""
    occurred, ingested = rows.attributes["occurred_at_ms"], rows.attributes["ingested_at_ms"]
    newest = int(np.where(ingested > 0, np.minimum(occurred, ingested), occurred).max())
    moment = newest if run.clock == "event" else run.started_ms
    return moment // HOUR_MS * HOUR_MS


def _one_row_per_pin(rows: SnapshotRows) -> SnapshotRows:
    """A Pin has states on two partitions when its producers hash keys differently: the newer one counts."""
    fields = rows.attributes
    revision = fields["changed_offset"] + fields["aggregated_offset"]
    order = np.lexsort((fields["changed_offset"], revision, fields["pin_id"]))
    last = np.diff(fields["pin_id"][order], append=-1) != 0
    return rows.take(order[last])
