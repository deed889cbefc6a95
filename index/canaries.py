"""Canary queries: a few fixed ones, answered at the build and again wherever the release is loaded.

The queries come from the release's own query tower, which this package does not know; their vectors are
handed in. They are kept in the release with the answers, so that the next build can say how much of the
live release's answers it shares, and a server that what it has loaded still answers as it did.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from schemas.errors import Refused
from schemas.manifests import CheckResult

from .faiss_index import ApproximateIndex, FlatIndex
from .recall import Queries
from .row_files import SnapshotRows, write_tensors

CANARIES = "canaries.safetensors"

_NOBODY = -1


@dataclass(frozen=True)
class Canaries:
    """Query vectors, fp32 [Q, D], and of how many of the exact best `k` the index must find what share."""

    queries: Queries
    k: int = 20
    min_overlap: float = 0.9


@dataclass(frozen=True)
class Answered:
    """Canary queries and the Pins that came, best first: int64 [Q, k], -1 where there are fewer Pins."""

    queries: Queries
    pins: npt.NDArray[np.int64]


def ask(
    index: FlatIndex | ApproximateIndex, rows: SnapshotRows, queries: Queries, k: int
) -> npt.NDArray[np.int64]:
    """The Pins that each query finds, [Q, k]. Raises Refused (`not_finite`) for a score that is no number."""
    pins = np.full((len(queries), k), _NOBODY, np.int64)
    for number, query in enumerate(queries):
        dots, positions = index.search(query, k, None)
        if not np.isfinite(dots).all():
            fix = "The query tower or the Pin vectors hold NaN or infinity: train or embed again."
            raise Refused("not_finite", "finite scores of the canary queries", f"query {number}", fix)
        pins[number, : len(positions)] = rows.attributes["pin_id"][positions]
    return pins


def check_queries(queries: Queries, dimension: int) -> None:
    """There are some, finite, of the Pins' dimension. Codes `wrong_dimension`, `not_finite`."""
    if queries.ndim != 2 or queries.shape[1] != dimension or not len(queries):
        fix = "The queries were made by another tower than the Pins."
        raise Refused("wrong_dimension", f"canary queries [Q, {dimension}]", str(queries.shape), fix)
    if not np.isfinite(queries).all():
        fix = "The query tower gives no numbers: train it again."
        raise Refused("not_finite", "finite canary queries", "NaN or infinity", fix)


def check_canaries(canaries: Canaries, overlap: float, shared: float | None) -> CheckResult:
    """The index finds nearly what an exact scan finds for real queries. Code `canary_overlap`.

    `overlap` was measured; `shared` is the share of the live release's answers that are answers here too,
    recorded only.
    """
    said = f"overlap@{canaries.k} {overlap:.4f} with an exact scan over {len(canaries.queries)} queries"
    if overlap < canaries.min_overlap:
        fix = "Build it flat, or with more effort per query."
        raise Refused("canary_overlap", f"overlap@{canaries.k} of {canaries.min_overlap} or more", said, fix)
    live = "nothing live to compare with" if shared is None else f"{shared:.4f} of the live answers"
    return CheckResult(name="canary_queries", ok=True, detail=f"{said}; {live}")


def shared_answers(answered: Answered, live: Answered | None) -> float | None:
    """The share of the live release's answers that came here too; None when there is nothing to compare."""
    if live is None or len(live.pins) != len(answered.pins) or not (live.pins >= 0).any():
        return None
    pairs = zip(answered.pins.tolist(), live.pins.tolist(), strict=True)
    hits = sum(len(set(mine) & set(theirs) - {_NOBODY}) for mine, theirs in pairs)
    return hits / int((live.pins >= 0).sum())


def check_answers(index: FlatIndex | ApproximateIndex, rows: SnapshotRows, kept: Answered) -> None:
    """What is loaded answers the canary queries as it did at its build. Code `canary_answers`.

    A tenth may differ: equal scores come in any order, and another processor rounds differently.
    """
    found = Answered(kept.queries, ask(index, rows, kept.queries, kept.pins.shape[1]))
    shared = shared_answers(found, kept)
    if shared is not None and shared < 0.9:
        fix = "Files are whole, so the index library reads them differently here: compare its versions."
        raise Refused("canary_answers", "the answers of the build", f"{shared:.0%} of them", fix)


def write_canaries(path: Path, answered: Answered) -> None:
    """Write the file."""
    write_tensors(path, {"queries": answered.queries, "pins": answered.pins})


def read_canaries(directory: Path) -> Answered:
    """Read what `write_canaries` wrote. Raises Refused for anything else."""
    try:
        found = load_file(directory / CANARIES)
        queries, pins = found["queries"], found["pins"]
    except (SafetensorError, KeyError, OSError) as error:
        raise Refused(
            "unreadable_file", "queries and answers", f"{CANARIES}: {error}", "Build it again."
        ) from error
    if queries.ndim != 2 or pins.ndim != 2 or len(queries) != len(pins) or pins.dtype != np.int64:
        came = f"{queries.shape} queries, {pins.dtype} {pins.shape} answers"
        raise Refused("unreadable_file", f"as many answers as queries in {CANARIES}", came, "Build it again.")
    return Answered(queries, pins)
