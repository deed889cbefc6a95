"""A release directory read back and proved: checksums, then parsing, then the checks that need its rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from schemas.artefacts import read_manifest, verify_files
from schemas.errors import Refused
from schemas.manifests import IndexSpec, ReleaseManifest
from schemas.tiers import VersionPolicy

from . import checks
from .canaries import CANARIES, check_answers, read_canaries
from .faiss_index import (
    ApproximateIndex,
    FlatIndex,
    Lists,
    hnsw_index,
    ivf_index,
    read_trained,
)
from .row_files import (
    ATTRIBUTES_FILE,
    VECTORS,
    Matrix,
    SnapshotRows,
    read_pin_ids,
    read_rows,
    write_tensors,
)

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

TRAINED = "index.faiss"
LISTS = "lists.safetensors"
FILES = {
    "flat": (VECTORS, ATTRIBUTES_FILE),
    "ivf": (VECTORS, ATTRIBUTES_FILE, TRAINED, LISTS),
    "hnsw": (VECTORS, ATTRIBUTES_FILE, TRAINED),
}
"""What a release of each kind is made of."""

_LISTS_TENSOR = "lists"


@dataclass(frozen=True)
class ReleaseContents:
    """A release in memory. `rows.vectors` is mapped; `index.matrix` is what to score with."""

    manifest: ReleaseManifest
    rows: SnapshotRows
    index: FlatIndex | ApproximateIndex


def release_manifest(directory: Path) -> ReleaseManifest:
    """The manifest alone. Raises Refused, also when the directory has another release's name."""
    manifest = read_manifest(directory, ReleaseManifest)
    if manifest.release_id != directory.name:
        fix = "The directory was renamed: give it its own name back."
        raise Refused("wrong_id", f"release {directory.name}", f"manifest of {manifest.release_id}", fix)
    return manifest


def read_release(directory: Path, version_policy: VersionPolicy = "enforce") -> ReleaseContents:
    """Manifest, rows and index of a release. sha256 of every file before any is parsed.

    One of mixed versions only for who asks for `tolerate`. Raises Refused with the code of the first
    thing that does not hold.
    """
    manifest, rows = read_release_rows(directory, version_policy)
    index = open_index(directory, manifest.index, rows.vectors)
    if any(entry.name == CANARIES for entry in manifest.files):
        check_answers(index, rows, read_canaries(directory))
    return ReleaseContents(manifest, rows, index)


def read_release_rows(
    directory: Path, version_policy: VersionPolicy = "enforce"
) -> tuple[ReleaseManifest, SnapshotRows]:
    """Manifest and rows, proved like `read_release` does, without the index."""
    manifest = release_manifest(directory)
    checks.policy_allows(manifest, version_policy)
    _needed_files(manifest)
    verify_files(directory, manifest.files)
    rows = read_rows(directory)
    _fits(manifest, rows)
    if manifest.tiers:
        checks.row_count(sum(part.rows for part in manifest.tiers.values()), len(rows), "all tiers together")
    return manifest, rows


def read_part(
    directory: Path, holds: Callable[[Ints], Mask], version_policy: VersionPolicy = "enforce"
) -> ReleaseContents:
    """The rows of a release whose Pin ids `holds` picks, proved like a whole one, in memory of their own.

    The manifest that comes back counts these rows. A flat index is one over them, an IVF index the same
    centroids with shorter lists. A graph cannot be cut: of an HNSW release the rows get a flat index,
    which is exact. Raises Refused like `read_release`; a part without rows is none of the reasons.
    """
    manifest = release_manifest(directory)
    checks.policy_allows(manifest, version_policy)
    _needed_files(manifest)
    verify_files(directory, manifest.files)
    pin_ids = read_pin_ids(directory)
    checks.row_count(len(pin_ids), manifest.index.rows, ATTRIBUTES_FILE)
    kept = np.flatnonzero(holds(pin_ids))
    rows = read_rows(directory, kept)
    kind = "ivf" if manifest.index.kind == "ivf" else "flat"
    spec = manifest.index.model_copy(update={"rows": len(rows), "kind": kind})
    part = manifest.model_copy(update={"index": spec})
    if kept.size:
        _fits(part, rows)
    if kind == "flat":
        return ReleaseContents(part, rows, FlatIndex(rows.vectors))
    trained = read_trained(directory / TRAINED, kind, spec.dimension)
    checks.row_count(int(trained.ntotal), 0, f"{TRAINED}, which holds centroids only")
    lists = read_lists(directory, len(pin_ids), trained.nlist)[kept]
    return ReleaseContents(part, rows, ivf_index(trained, lists, rows.vectors, _parameter(spec, "nprobe")))


def open_index(directory: Path, spec: IndexSpec, vectors: Matrix) -> FlatIndex | ApproximateIndex:
    """The index that `spec` describes, over these vectors."""
    if spec.kind == "flat":
        return FlatIndex(vectors)
    trained = read_trained(directory / TRAINED, spec.kind, spec.dimension)
    if spec.kind == "hnsw":
        checks.row_count(int(trained.ntotal), spec.rows, TRAINED)
        return hnsw_index(trained, vectors, _parameter(spec, "ef_search"))
    checks.row_count(int(trained.ntotal), 0, f"{TRAINED}, which holds centroids only")
    return ivf_index(
        trained, read_lists(directory, spec.rows, trained.nlist), vectors, _parameter(spec, "nprobe")
    )


def write_lists(directory: Path, lists: Lists) -> None:
    """Write `lists.safetensors`."""
    write_tensors(directory / LISTS, {_LISTS_TENSOR: lists})


def read_lists(directory: Path, rows: int, nlist: int) -> Lists:
    """Each row's inverted list. Raises Refused when it does not fit the rows or the centroids."""
    try:
        lists: Lists = load_file(directory / LISTS)[_LISTS_TENSOR]
    except (SafetensorError, KeyError) as error:
        raise Refused("unreadable_file", "a list per row", f"{LISTS}: {error}", "Build it again.") from error
    if lists.dtype != np.uint16 or lists.ndim != 1 or int(lists.max(initial=0)) >= nlist:
        came = f"{lists.dtype} {lists.shape}, largest {lists.max(initial=0)}"
        raise Refused("unreadable_file", f"numbers below {nlist} in {LISTS}", came, "Build it again.")
    checks.row_count(len(lists), rows, LISTS)
    return lists


def _needed_files(manifest: ReleaseManifest) -> None:
    listed = {entry.name for entry in manifest.files}
    missing = [name for name in FILES[manifest.index.kind] if name not in listed]
    if missing:
        fix = "It would be read unchecked: build the release again."
        raise Refused("missing_file", f"{', '.join(missing)} in the manifest", "no entry", fix)


def _fits(manifest: ReleaseManifest, rows: SnapshotRows) -> None:
    spec = manifest.index
    if spec.tower_version != manifest.tower_version:
        fix = "Query tower and index are of different versions: build the release again."
        raise Refused("mixed_versions", f"an index of {manifest.tower_version}", spec.tower_version, fix)
    checks.not_empty(len(rows))
    checks.row_count(len(rows), spec.rows, ATTRIBUTES_FILE)
    checks.dimension(rows.vectors, spec.dimension)
    if manifest.version_policy == "enforce":
        checks.one_tower_version({manifest.tier: rows.histogram()}, manifest.tower_version)
    checks.unique_pins(rows.attributes["pin_id"])
    checks.finite(rows.vectors)


def _parameter(spec: IndexSpec, name: str) -> int:
    value = spec.parameters.get(name, 0)
    if value < 1:
        raise Refused("bad_manifest", f"a positive {name} for {spec.kind}", str(value), "Build it again.")
    return value
