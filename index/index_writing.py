"""The index of a release written, read back, and tuned to the recall that the policy asks for."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.manifests import CheckResult, IndexSpec

from . import checks
from .breakdown import Breakdown
from .build_policy import BuildPolicy, BuiltKind
from .contents import TRAINED, open_index, write_lists
from .faiss_index import ApproximateIndex, FlatIndex, build_hnsw, train_ivf, write_trained
from .recall import Queries, exact_best, share_found
from .row_files import Matrix

FLAT_UP_TO_ROWS = 200_000
"""An exact scan of so many takes about a millisecond; above it, `auto` builds IVF."""

_MAX_LISTS = 65_535
_FIRST_EFFORT = {"ivf": 4, "hnsw": 32}
_EFFORT_NAME = {"ivf": "nprobe", "hnsw": "ef_search"}
_MAX_EF_SEARCH = 4096


@dataclass(frozen=True)
class WrittenIndex:
    """What the manifest says of it, how well it finds, and the index itself, over the same vectors.

    `canary_overlap` is the share of the exact answers to the canaries that it finds; 1 where there are none.
    """

    spec: IndexSpec
    recall: CheckResult
    index: FlatIndex | ApproximateIndex
    canary_overlap: float


def write_index(
    directory: Path,
    vectors: Matrix,
    spec: IndexSpec,
    policy: BuildPolicy,
    timed: Breakdown,
) -> WrittenIndex:
    """Write what `spec.kind` keeps beside the vectors, read it back, and measure what it finds."""
    if spec.kind == "flat":
        with timed.phase("open_index"):
            index = FlatIndex(vectors)
        with timed.phase("canaries"):
            alone = replace(policy, recall_queries=1)  # of an exact index nothing else is to be measured
            aims = _aims(vectors, alone)[1:] if policy.canaries else []
            shares = [aim.share(index, spec.rows) for aim in aims]
        exact = CheckResult(name="recall", ok=True, detail="exact")
        return WrittenIndex(spec, exact, index, *(shares or [1.0]))
    kind, rows = spec.kind, spec.rows
    parameters = _train(directory, vectors, kind, policy, timed)
    first = spec.model_copy(update={"parameters": {_EFFORT_NAME[kind]: _FIRST_EFFORT[kind]}})
    with timed.phase("open_index"):
        opened = open_index(directory, first, vectors)
    assert isinstance(opened, ApproximateIndex)
    with timed.phase("recall"):
        opened, measured, overlap = least_effort(
            opened, parameters.get("nlist", _MAX_EF_SEARCH), vectors, policy
        )
    parameters |= {
        _EFFORT_NAME[kind]: opened.effort,
        f"recall_at_{policy.recall_at}_ppm": int(measured * 1_000_000),
    }
    check = checks.recall(measured, policy.min_recall, policy.recall_at, min(policy.recall_queries, rows))
    return WrittenIndex(spec.model_copy(update={"parameters": parameters}), check, opened, overlap)


def _train(
    directory: Path, vectors: Matrix, kind: BuiltKind, policy: BuildPolicy, timed: Breakdown
) -> dict[str, int]:
    """Train (and for a graph, insert), and write what came of it; the parameters so far."""
    if kind == "hnsw":
        with timed.phase("faiss"):
            graph = build_hnsw(vectors)
        with timed.phase("write_index"):
            write_trained(graph, directory / TRAINED)
        return {}
    nlist = lists_for(len(vectors))
    with timed.phase("faiss"):
        skeleton, lists = train_ivf(vectors, nlist, policy.seed)
    with timed.phase("write_index"):
        write_trained(skeleton, directory / TRAINED)
        write_lists(directory, lists)
    return {"nlist": nlist}


@dataclass(frozen=True)
class _Aim:
    """Queries, the dot of the last of each one's exact best `k`, and the share of those to be found."""

    queries: Queries
    worst: npt.NDArray[np.float32]
    k: int
    share_wanted: float

    def share(self, index: FlatIndex | ApproximateIndex, rows: int) -> float:
        return share_found(index.search, self.queries, self.worst, self.k, rows)


def _aims(vectors: Matrix, policy: BuildPolicy) -> list[_Aim]:
    """A sample of the Pins' own vectors as queries; and the canaries, if there are any. One exact scan."""
    rows = len(vectors)
    sample = np.random.default_rng(policy.seed).choice(rows, min(rows, policy.recall_queries), replace=False)
    wanted = [(vectors[np.sort(sample)].astype(np.float32), policy.recall_at, policy.min_recall)]
    if (canaries := policy.canaries) is not None:
        wanted.append((canaries.queries, canaries.k, canaries.min_overlap))
    queries = np.concatenate([one for one, _, _ in wanted])
    best = exact_best(vectors, queries, max(k for _, k, _ in wanted))[0]
    aims, start = [], 0
    for asked, k, share in wanted:
        worst = best[start : start + len(asked), min(k, rows) - 1]
        aims.append(_Aim(asked, worst, k, share))
        start += len(asked)
    return aims


def least_effort(
    index: ApproximateIndex, limit: int, vectors: Matrix, policy: BuildPolicy
) -> tuple[ApproximateIndex, float, float]:
    """The index at the least effort, doubled from its own up to `limit`, that reaches what the policy asks.

    Returns it with the recall@k that was measured against an exact scan, a sample of the Pins' own
    vectors being the queries, and the overlap of the canaries. Those are real queries, which are elsewhere
    in the space, so they have to find their share too.
    """
    rows, aims = len(vectors), _aims(vectors, policy)
    while True:
        shares = [aim.share(index, rows) for aim in aims]
        reached = all(share >= aim.share_wanted for share, aim in zip(shares, aims, strict=True))
        if reached or index.effort >= limit:
            return index, shares[0], shares[-1] if len(shares) > 1 else 1.0
        index = index.at_effort(min(2 * index.effort, limit))


def kind_for(rows: int) -> BuiltKind:
    """What `auto` builds for so many rows."""
    return "flat" if rows <= FLAT_UP_TO_ROWS else "ivf"


def lists_for(rows: int) -> int:
    """Inverted lists for so many rows: the power of two next to 2·sqrt(rows), at least 1."""
    return min(1 << max(round(math.log2(2 * math.sqrt(rows))), 0), rows, _MAX_LISTS)
