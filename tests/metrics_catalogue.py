"""Every metric of ours, read from the catalogues' own source. `make metrics` writes the page.

A catalogue is a `*telemetry.py`; a metric is a call whose first argument is its name, and the comment above
the statement is what it means and what to do about it.
"""

import ast
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/metrics.md"
PROCESSES = {
    "serving/telemetry.py": "skewless serve",
    "serving/release_telemetry.py": "skewless serve",
    "serving/delta_telemetry.py": "skewless serve",
    "serving/rollover_telemetry.py": "skewless serve",
    "serving/shard_telemetry.py": "leaves and root",
    "streams/telemetry.py": "skewless enrich",
    "streams/stream_telemetry.py": "skewless stream",
    "streams/attribution_telemetry.py": "skewless stream",
    "streams/skew_telemetry.py": "skewless stream",
    "streams/snapshot_telemetry.py": "skewless snapshots",
}
"""Catalogue -> the process whose /metrics it is on."""
KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
    "BulkHistogram": "histogram",
}
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
HEADER = """# Metrics

Written by `make metrics` from the catalogues (`serving/*telemetry.py`, `streams/*telemetry.py`); do not edit.
The server has them at `/metrics` of its own port, the other processes where `--metrics-port` says. Names end
in their unit; labels are bounded; a tower version is a label (its first 12 digits) only while it is there.
Alerts on them: `deploy/prometheus/rules.yml`, each with a page in [runbooks](runbooks/).
"""


@dataclass(frozen=True)
class Metric:
    """One entry of a catalogue."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    catalogue: str

    @property
    def series(self) -> set[str]:
        """Names that a query may use."""
        return {self.name + suffix for suffix in _SUFFIXES[self.kind]}


def catalogues() -> list[Path]:
    """Every catalogue in the tree."""
    return sorted([*ROOT.glob("serving/*telemetry.py"), *ROOT.glob("streams/*telemetry.py")])


def metrics() -> list[Metric]:
    """Every metric, by catalogue and in its order."""
    return [metric for path in catalogues() for metric in _of(path)]


def _of(path: Path) -> list[Metric]:
    text = path.read_text("utf-8")
    lines = text.splitlines()
    found: dict[int, Metric] = {}
    for statement in ast.walk(ast.parse(text)):
        if not isinstance(statement, ast.Assign):
            continue
        for call in ast.walk(statement):
            if isinstance(call, ast.Call) and (name := _name(call)):
                kind = KINDS[ast.unparse(call.func)]
                full = name + "_total" * (kind == "counter" and not name.endswith("_total"))
                meaning = _comment_above(lines, statement.lineno)
                catalogue = str(path.relative_to(ROOT))
                found[call.lineno] = Metric(full, kind, _labels(call), meaning, catalogue)
    # One comment may stand above two metrics that belong together.
    ordered: list[Metric] = []
    for line in sorted(found):
        metric = found[line]
        ordered.append(metric if metric.meaning else replace(metric, meaning=ordered[-1].meaning))
    return ordered


def _name(call: ast.Call) -> str:
    first = call.args[0] if call.args else None
    if (
        isinstance(first, ast.Constant)
        and isinstance(first.value, str)
        and first.value.startswith("skewless_")
    ):
        return first.value
    return ""


def _labels(call: ast.Call) -> tuple[str, ...]:
    lists = [*call.args[1:], *(one.value for one in call.keywords if one.arg in ("labels", "labelnames"))]
    for value in lists:
        if isinstance(value, ast.List | ast.Tuple):
            return tuple(ast.literal_eval(value))
    return ()


def _comment_above(lines: list[str], lineno: int) -> str:
    comment: list[str] = []
    for line in reversed(lines[: lineno - 1]):
        if not line.strip().startswith("#"):
            break
        comment.append(line.strip().removeprefix("#").strip())
    return " ".join(reversed(comment))


def page() -> str:
    """The reference, as it should be in docs/metrics.md."""
    parts = [HEADER]
    every = metrics()
    for process in dict.fromkeys(PROCESSES.values()):
        parts.append(f"\n## {process}\n\n| metric | labels | meaning, and what to do |\n|---|---|---|\n")
        for one in every:
            if PROCESSES[one.catalogue] == process:
                labels = ", ".join(f"`{name}`" for name in one.labels)
                parts.append(f"| `{one.name}` ({one.kind}) | {labels} | {one.meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(PAGE)
