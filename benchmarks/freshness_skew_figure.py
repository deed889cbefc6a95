"""The headline figure and its table, out of the benchmark's own result."""

from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "freshness_skew.png"
_MARKERS = {
    "skewless": ("o", "tab:green"),
    "skewless, no delta": ("o", "tab:olive"),
    "index in checkpoint": ("s", "tab:blue"),
    "hourly union": ("^", "tab:red"),
    "alias swap": ("D", "tab:orange"),
}
_LEAST_SHARE = 1e-4
"""Where a share of exactly 0 is drawn on the logarithmic axis."""
_TICKS = {0.1: "0.1 s", 1: "1 s", 60: "1 min", 3600: "1 h", 86_400: "1 day", 604_800: "1 week"}
_SHARES = {_LEAST_SHARE: "none", 1e-3: "0.1 %", 1e-2: "1 %", 1e-1: "10 %", 1.0: "100 %"}
_LABELS = {
    "skewless": (0, 16, "center"),
    "skewless, no delta": (10, 16, "right"),
    "index in checkpoint": (34, 16, "right"),
    "hourly union": (0, 14, "center"),
    "alias swap": (-6, 14, "left"),
}
"""Where each design's label stands: points right of its median and above it, and how it is aligned."""


def draw(details: dict[str, Any], picture: Path = PICTURE) -> None:
    """One marker a design: its median at the marker, its 99th percentile at the end of the line."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - only a full run draws

    families = list(details["families"].values())
    figure, axes = plt.subplots(figsize=(8.4, 5.0), layout="constrained")
    for name, (marker, colour) in _MARKERS.items():
        design = families[0]["designs"][name]
        wait = design["freshness_seconds"]
        share = max(design["mixed_pairs_share"], _LEAST_SHARE)
        axes.plot([wait["p50"], wait["p99"]], [share, share], color=colour, linewidth=2.5)
        axes.plot(wait["p50"], share, marker=marker, color=colour, markersize=11)
        axes.plot(wait["p99"], share, marker="|", color=colour, markersize=12, markeredgewidth=2.5)
        right, up, align = _LABELS[name]
        axes.annotate(
            _label(name, [family["designs"][name] for family in families]),
            (wait["p50"], share),
            xytext=(right, up),
            textcoords="offset points",
            ha=align,
            fontsize=8.5,
            color=colour,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(0.02, 4e6)
    axes.set_ylim(5e-5, 2.0)
    axes.set_xticks(list(_TICKS), list(_TICKS.values()))
    axes.set_yticks(list(_SHARES), list(_SHARES.values()))
    axes.minorticks_off()
    axes.set_xlabel(
        "event to servable, p50 (marker) to p99 (bar); recall@20 by how towers are retrained: "
        + " | ".join(details["families"])
    )
    axes.set_ylabel("scored pairs of two tower versions")
    axes.set_title("Freshness against version skew: left is fresher, down is purer", fontsize=11)
    axes.grid(alpha=0.3)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)
    plt.close(figure)


def _label(name: str, designs: list[dict[str, Any]]) -> str:
    recalls = " | ".join(f"{design['recall_at_20']:.3f}" for design in designs)
    forwards = designs[0]["cost"]["tower_forwards_per_million_updates"] / 1e6
    return f"{name}\nrecall@20 {recalls}\n{forwards:.2g} forwards an update"


def table(details: dict[str, Any]) -> str:
    """Markdown: one row a design, recall of each family."""
    families = details["families"]
    first = next(iter(families.values()))
    heads = [f"recall@20, {name}" for name in families]
    lines = [
        "| design | event to servable p50 | p99 | mixed pairs | answers with a mixed ad | "
        + " | ".join(heads)
        + " | expected / observed | forwards per update | CPU s per million updates: towers + indexes |",
        "|---|" + "---|" * (7 + len(families)),
    ]
    for name, design in first["designs"].items():
        wait, cost = design["freshness_seconds"], design["cost"]
        recalls = [family["designs"][name]["recall_at_20"] for family in families.values()]
        ratios = [
            family["designs"][name]["common_candidates"]["expected_over_observed"]
            for family in families.values()
        ]
        cells = [
            name,
            duration(wait["p50"]),
            duration(wait["p99"]),
            f"{design['mixed_pairs_share']:.2%}",
            f"{design['answers_with_mixed_share']:.2%}",
            *(f"{recall:.4f}" for recall in recalls),
            " / ".join(f"{ratio:.2f}" for ratio in ratios),
            f"{cost['tower_forwards_per_million_updates'] / 1e6:.2f}",
            f"{cost['tower_cpu_seconds_per_million_updates']:.1f} + "
            f"{cost['index_cpu_seconds_per_million_updates']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """In the unit that reads best.

    >>> [duration(value) for value in (0.57, 95, 1800, 259_200)]
    ['0.57 s', '95 s', '30 min', '3.0 d']
    """
    if seconds < 120:
        return f"{seconds:.2g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
