"""A release that is there, loaded and checked as a server would: `skewless release check`."""

from pathlib import Path

import numpy as np

from features.definitions import registry
from index.canaries import CANARIES, read_canaries
from index.loading import load_index
from models.predictor import QueryTower
from schemas.errors import Refused
from schemas.manifests import CheckResult

from .canaries import canaries
from .settings import Settings
from .store_connection import release_store


def check_release(settings: Settings, release_id: str | None) -> list[CheckResult]:
    """Load a release (None: the live one) as a server would; the checks it passed. Raises Refused."""
    store = release_store(settings)
    wanted = release_id or store.current()
    if wanted is None:
        raise Refused("no_release", "a live release", "none", "`skewless release publish ID` makes one live.")
    index = load_index(
        store, wanted, registry_hash=registry().content_hash, version_policy=settings.version_policy
    )
    tower = QueryTower.load(settings.towers_dir, index.tower_version, registry())
    results = list(index.manifest.checks)
    if any(entry.name == CANARIES for entry in index.manifest.files):
        results.append(_same_queries(tower, store.directory(wanted)))
    detail = f"{len(index)} rows and query tower {tower.version[:12]}, every checksum right"
    return [*results, CheckResult(name="loads", ok=True, detail=detail)]


def _same_queries(tower: QueryTower, directory: Path) -> CheckResult:
    """Whether the query tower embeds the canary queries as it did when the release was built.

    Whether the index answers them as it did then was checked when it was loaded. Raises Refused.
    """
    kept, now = read_canaries(directory).queries, canaries(tower).queries
    if kept.shape != now.shape or not np.allclose(kept, now, rtol=1e-3, atol=1e-3):
        fix = "The release was built with another query tower of this version: build it again."
        came = f"{now.shape} queries that differ" if kept.shape == now.shape else f"{now.shape} queries"
        raise Refused("canary_queries", "the query vectors of the build", came, fix)
    return CheckResult(name="canaries", ok=True, detail=f"{len(kept)} queries embedded and answered as built")
