"""Durations and moments as people write them on the command line: 90s, 15m, 2026-11-21T14:30:00Z."""

import re
from datetime import UTC, datetime

import typer

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def seconds(text: str) -> float:
    """`15m` -> 900. Raises typer.BadParameter for anything that is not a number and one of s, m, h, d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r}: write a number and s, m, h or d, such as 90s, 15m, 36h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def moment_ms(text: str, now_ms: int) -> int:
    """`15m` -> 15 minutes before `now_ms`; a date and time, UTC unless it names a zone, as it stands.

    Raises typer.BadParameter for anything else.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            return now_ms - int(seconds(text) * 1000)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"{error}; or a time, such as 2026-11-21T14:30:00Z") from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(zoned.timestamp() * 1000)


def spoken(milliseconds: int) -> str:
    """An age for people, in its largest unit: `3.5 d`, `12 min`."""
    value = milliseconds / 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g} s"
