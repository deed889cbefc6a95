"""`skewless skew`: the alerts of the skew monitor as they stand now."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from .cli_options import Json
from .output import EXIT_REFUSED, Output
from .settings import Settings


def skew(
    everything: Annotated[
        bool, typer.Option("--all", help="Show alerts that are over, too; --json always does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the skew alerts of every tier, newest state per kind. Exit 1 when one is raised.

    An alert is there once the monitor (`skewless stream --step skew_monitor`) has raised it for the first
    time; no row means that it never did.

    Example: skewless skew --json
    """
    from schemas.skew import SkewAlerted  # noqa: PLC0415 - keeps `--help` quick
    from schemas.topics import SKEW_ALERTED  # noqa: PLC0415
    from streams.topic_reader import TopicReader  # noqa: PLC0415
    from streams.topic_rows import newest_rows  # noqa: PLC0415

    from .kafka_connection import kafka_settings  # noqa: PLC0415

    with TopicReader(kafka_settings(Settings.load())) as reader:
        alerts = [
            row for rows in newest_rows(reader, SKEW_ALERTED) for row in rows if isinstance(row, SkewAlerted)
        ]
    alerts.sort(key=lambda row: (row.state != "raised", row.tier, row.kind))
    raised = [row for row in alerts if row.state == "raised"]
    if as_json:
        Output(True).data([row.model_dump(mode="json") for row in alerts])
    else:
        Output(False).rows("skew alerts", [_row(one) for one in (alerts if everything else raised)])
    if raised:
        raise typer.Exit(EXIT_REFUSED)


def _row(alert: Any) -> dict[str, Any]:
    since = datetime.fromtimestamp(alert.since_ms / 1000, UTC).isoformat(timespec="seconds")
    return {
        "tier": alert.tier,
        "kind": alert.kind,
        "state": alert.state,
        "since": since,
        "share": alert.share,
        "threshold": alert.threshold,
        "serving": (alert.serving_version or "")[:12],
        "versions": ", ".join(f"{version[:12]} {share:.1%}" for version, share in alert.versions.items()),
    }


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(skew)
