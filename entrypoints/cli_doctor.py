"""`skewless doctor`: what is wrong here, and the command that mends it."""

import dataclasses
import time

import typer

from schemas.errors import Refused

from .cli_options import Json
from .output import EXIT_REFUSED, Output, messages
from .settings import Settings

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


def doctor(as_json: Json = False) -> None:
    """Check packages, disk, device, ports, towers, release and Kafka; say what mends what is wrong.

    Exit 1 when a check fails; warnings alone exit 0. Looks only, and takes 10 seconds at most.

    Example: skewless doctor --json
    """
    from .doctor import Finding  # noqa: PLC0415 - keeps `--help` quick
    from .doctor_facts import examine  # noqa: PLC0415

    begun = time.monotonic()
    try:
        findings = examine(Settings.load())
    except Refused as refused:
        findings = [Finding("settings", "FAIL", refused.expected, refused.fix)]
    failed = sum(one.status == "FAIL" for one in findings)
    warned = sum(one.status == "WARN" for one in findings)
    if as_json:
        rows = [dataclasses.asdict(one) for one in findings]
        Output(True).data({"ok": not failed, "failed": failed, "warned": warned, "checks": rows})
    else:
        for one in findings:
            typer.secho(f"{one.status:4}", nl=False, fg=_COLOURS.get(one.status), bold=one.status == "FAIL")
            typer.echo(f"  {one.check}: {one.found}")
            if one.fix:
                typer.echo(f"      fix: {one.fix}")
        messages.print(f"{failed} failed, {warned} warnings, {time.monotonic() - begun:.1f} s", markup=False)
    if failed:
        raise typer.Exit(EXIT_REFUSED)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(doctor)
