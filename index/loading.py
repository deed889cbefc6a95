"""A release made ready to serve: read, proved, and warmed beside the one that serves now."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.shard_slices import Shard
from schemas.errors import Refused
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy

from . import checks
from .contents import ReleaseContents, read_part, read_release, release_manifest
from .release_contract import Releases
from .row_files import Attributes, Matrix
from .vector_index import Bitmap, Dots, Positions, Query, VectorIndex, pack

_WARM_QUERIES = 16
_WARM_K = 100


class LoadedIndex:
    """One release's rows and index in memory. Row numbers 0..N-1 are the same in all of its parts.

    `attributes` is ATTRIBUTES [N]; `vectors` fp16 [N, D], read-only, for scoring; `titles` an Arrow
    string array of N. Safe to search from many threads.
    """

    def __init__(self, contents: ReleaseContents) -> None:
        self.manifest: ReleaseManifest = contents.manifest
        self.attributes: Attributes = contents.rows.attributes
        self.titles: pa.StringArray = contents.rows.titles
        self.vectors: Matrix = contents.index.matrix
        # Each row's own tag, for whoever logs what was scored: not the manifest's claim.
        self.versions: list[str] = contents.rows.versions
        self.version_code: npt.NDArray[np.uint8] = contents.rows.version_code
        self._index: VectorIndex | None = contents.index

    @property
    def tower_version(self) -> str:
        """The query tower's version; every row was proved to be of it, but in a `tolerate` release."""
        return self.manifest.tower_version

    def __len__(self) -> int:
        return self.manifest.index.rows

    def search(self, query: Query, k: int, allowed: Bitmap | None = None) -> tuple[Dots, Positions]:
        """The best `min(k, eligible)` rows, best first; see `VectorIndex`."""
        if self._index is None:
            raise RuntimeError(f"release {self.manifest.release_id} was closed: a lease ended too early")
        return self._index.search(query, k, allowed)

    def searched_by(self, index: VectorIndex) -> None:
        """Search with another index over the same rows, on another device; before anybody has this one."""
        checks.row_count(index.rows, len(self), "the index on another device")
        self._index = index

    def warm(self) -> None:
        """A few searches, filtered and not, so that the first request finds memory and caches ready."""
        step = max(len(self) // _WARM_QUERIES, 1)
        allowed = pack(self.attributes["pin_id"] % 2 == 0)
        for row in range(0, len(self), step):
            query = self.vectors[row].astype("f4")
            self.search(query, _WARM_K)
            self.search(query, _WARM_K, allowed)

    def close(self) -> None:
        """Let go of the memory. Arrays that somebody still holds stay valid."""
        self._index = None
        self.vectors = self.vectors[:0].copy()
        self.attributes = self.attributes[:0].copy()
        self.version_code = self.version_code[:0].copy()
        self.titles = pa.array([], pa.string())


def load_index(
    releases: Releases, release_id: str, *, registry_hash: str, version_policy: VersionPolicy = "enforce"
) -> LoadedIndex:
    """Read a release back, with the sha256 of every file first and every check that its rows allow.

    A release that mixes tower versions only with `version_policy="tolerate"`.
    Long, but hashing, copying and FAISS release the interpreter lock: a background thread can do it.
    Raises Refused with code, expected, came and fix.
    """
    directory = _fetched(releases, release_id, registry_hash)
    return LoadedIndex(read_release(directory, version_policy))


def load_shard(
    releases: Releases,
    release_id: str,
    shard: Shard,
    *,
    registry_hash: str,
    version_policy: VersionPolicy = "enforce",
) -> LoadedIndex:
    """The rows of one shard of a release, with the same checks; their memory is all that is kept.

    Raises Refused like `load_index`.
    """
    directory = _fetched(releases, release_id, registry_hash)
    return LoadedIndex(read_part(directory, shard.holds, version_policy))


def _fetched(releases: Releases, release_id: str, registry_hash: str) -> Path:
    """The release's directory on this disk, its manifest checked. Raises Refused."""
    try:
        promised = releases.manifest(release_id)
    except Refused:
        promised = None  # the copy here may be damaged: fetching it mends that, or says what is wrong
    if promised is not None:
        # Before the download: what this registry refuses is not worth its bytes.
        _check_manifest(promised, registry_hash)
    directory = releases.fetch(release_id)
    _check_manifest(release_manifest(directory), registry_hash)
    return directory


def _check_manifest(manifest: ReleaseManifest, registry_hash: str) -> None:
    checks.registry(manifest.registry_hash, registry_hash)
    if not all(check.ok for check in manifest.checks):
        failed = [check.name for check in manifest.checks if not check.ok]
        raise Refused("failed_check", "a release whose checks passed", ", ".join(failed), "Build it again.")
