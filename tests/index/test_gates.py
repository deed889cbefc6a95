"""A gate from outside sees the built candidate, leaves its result, and can refuse."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from index.builder import BuildPolicy
from index.gates import Candidate
from schemas.errors import Refused
from schemas.manifests import CheckResult
from tests.index.builders import Workshop, rows_of


@dataclass
class FewerThan:
    """A gate that lets at most so many rows through, and keeps what it saw."""

    rows: int
    name: str = "fewer_than"
    seen: list[Candidate] = field(default_factory=list)

    def __call__(self, candidate: Candidate) -> CheckResult:
        self.seen.append(candidate)
        count = len(candidate.rows)
        return CheckResult(name=self.name, ok=count < self.rows, detail=f"{count} rows")


def test_what_a_gate_says_is_in_the_manifest(tmp_path: Path) -> None:
    workshop, gate = Workshop(tmp_path), FewerThan(50)
    live = workshop.published(rows_of(20), 1)
    manifest = workshop.build(rows_of(30), 2, policy=BuildPolicy(gates=[gate]))
    assert manifest.checks[-1] == CheckResult(name="fewer_than", ok=True, detail="30 rows")
    (candidate,) = gate.seen
    assert candidate.live == live
    assert candidate.index.search(candidate.rows.vectors[7].astype("f4"), 1, None)[1].tolist() == [7]


def test_a_gate_that_fails_refuses_the_release_and_leaves_nothing(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    with pytest.raises(Refused) as caught:
        workshop.build(rows_of(60), policy=BuildPolicy(gates=[FewerThan(100), FewerThan(50, "few")]))
    assert (caught.value.code, caught.value.came) == ("failed_gate", "60 rows")
    assert "gate few" in caught.value.expected
    assert workshop.releases.list() == []
