"""Breaks each invariant on purpose and names the test that notices.

`make mutate`, or `python -m tests.mutations [--json]`. Each mutation is one replacement in one file of a
copy of the tree; the tests that guard the invariant are run there until one fails. Exit code 1 when a
mutation survives, or when its text is no longer in the code.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_LEFT_OUT = shutil.ignore_patterns(
    ".venv", ".git", "var", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", "results"
)


@dataclass(frozen=True)
class Mutation:
    """Replace `before` by `after` in `file`; `tests` should notice."""

    invariant: str
    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "1 homogeneity gate",
        "the gate accepts a snapshot that holds several tower versions",
        "index/checks.py",
        "if list(histogram) == [tower_version]:",
        "if tower_version in histogram:",
        ("tests/index/test_bad_releases.py",),
    ),
    Mutation(
        "1 homogeneity gate",
        "the builder does not ask the gate",
        "index/builder.py",
        '        if policy.version_policy == "enforce"\n',
        "        if False\n",
        ("tests/index/test_bad_releases.py",),
    ),
    Mutation(
        "2 one lease per request",
        "retrieval takes its own look at what is live",
        "serving/pipeline.py",
        "found = retrieve(inventory, query,",
        "found = retrieve(self._handle.lease().__enter__().inventory(), query,",
        ("tests/serving/test_pipeline.py",),
    ),
    Mutation(
        "2 one lease per request",
        "the answer's versions are those of whatever is live at its end",
        "serving/pipeline.py",
        "provenance=provenance(release),",
        "provenance=provenance(self._handle.lease().__enter__()),  # type: ignore[arg-type]",
        ("tests/serving/test_pipeline.py",),
    ),
    Mutation(
        "2 one lease per request",
        "the recount compares nothing",
        "schemas/logs.py",
        "sum(ad.tower_version != self.query_tower_version for ad in self.ads)",
        "0 * len(self.ads)",
        ("tests/serving/test_ranking_log.py",),
    ),
    Mutation(
        "3 load, check, warm, then swap",
        "the old release is closed while requests still hold it",
        "index/handle.py",
        "generation.end_lease(self._dispose)\n\n\nclass Lease",
        "pass\n\n\nclass Lease",
        ("tests/index/test_handle.py",),
    ),
    Mutation(
        "3 load, check, warm, then swap",
        "a release is swapped in without having been warmed",
        "serving/live_release.py",
        "    warm(release, assembly.now_ms())\n",
        "",
        ("tests/serving/test_live_release.py",),
    ),
    Mutation(
        "3 load, check, warm, then swap",
        "files are parsed without looking at their sha256",
        "schemas/artefacts.py",
        "if found != entry.sha256:",
        "if False:",
        ("tests/index/test_bad_releases.py",),
    ),
    Mutation(
        "4 a release that does not fit is refused",
        "another feature registry is let through",
        "serving/live_release.py",
        "if manifest.registry_hash != registry_hash:",
        "if False:",
        ("tests/serving/test_live_release.py",),
    ),
    Mutation(
        "4 a release that does not fit is refused",
        "a query tower of another version is let through",
        "serving/live_release.py",
        "if not tower.version == index.tower_version == manifest.tower_version:",
        "if False:",
        ("tests/serving/test_live_release.py",),
    ),
    Mutation(
        "4 a release that does not fit is refused",
        "NaN vectors are let through",
        "index/builder.py",
        "        checks.finite(rows.vectors),\n",
        "",
        ("tests/index/test_bad_releases.py",),
    ),
)


def caught_by(mutation: Mutation) -> str | None:
    """The first test that fails under a mutation, or None when all pass. ValueError when stale."""
    with tempfile.TemporaryDirectory(prefix="skewless-mutation-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=_LEFT_OUT)
        target = tree / mutation.file
        text = target.read_text("utf-8")
        if text.count(mutation.before) != 1:
            raise ValueError(f"{mutation.file} holds {text.count(mutation.before)} times {mutation.before!r}")
        target.write_text(text.replace(mutation.before, mutation.after), "utf-8")
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation.tests],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    if run.returncode != 1 or failed is None:
        raise ValueError(f"the tests did not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return failed.group(1)


def main(arguments: list[str]) -> int:
    """Run all mutations and print one line each."""
    survived = 0
    for mutation in MUTATIONS:
        test = caught_by(mutation)
        survived += test is None
        line = {"invariant": mutation.invariant, "mutation": mutation.what, "caught_by": test}
        if "--json" in arguments:
            print(json.dumps(line), flush=True)
        else:
            print(
                f"{'SURVIVED' if test is None else 'caught':9} {mutation.invariant}: {mutation.what}",
                flush=True,
            )
            print(f"          {test or 'by nothing'}", flush=True)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
