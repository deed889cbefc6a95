"""Gates that are added to a build from outside: `evaluation/` has checks that this package cannot know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import Refused
from schemas.manifests import CheckResult, ReleaseManifest, TowerManifest

from .faiss_index import ApproximateIndex, FlatIndex
from .row_files import SnapshotRows


@dataclass(frozen=True)
class Candidate:
    """A release that is built and not published: what a gate may look at.

    `rows` are by Pin id, and row numbers of `index` are theirs; `live` is what it would replace.
    """

    tower: TowerManifest
    rows: SnapshotRows
    index: FlatIndex | ApproximateIndex
    live: ReleaseManifest | None


class Gate(Protocol):
    """One named condition of a release. What it returns is kept in the manifest."""

    @property
    def name(self) -> str:
        """What the result is called: lower case, words joined by underscores."""
        ...

    def __call__(self, candidate: Candidate) -> CheckResult:
        """Look at the candidate; `ok=False` refuses it, with `detail` as what came."""
        ...


def pass_gates(gates: Sequence[Gate], candidate: Candidate) -> list[CheckResult]:
    """Every gate's result. Raises Refused (`failed_gate`) at the first that does not pass."""
    results: list[CheckResult] = []
    for gate in gates:
        result = gate(candidate)
        if not result.ok:
            fix = "The gate says what it measured: mend that, or build without this gate."
            raise Refused("failed_gate", f"gate {gate.name} to pass", result.detail, fix)
        results.append(result)
    return results
