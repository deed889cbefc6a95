"""What the command line prints: data on stdout, everything else on stderr."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from schemas.errors import Refused

EXIT_OK, EXIT_REFUSED, EXIT_USAGE, EXIT_UNAVAILABLE = 0, 1, 2, 3

messages = Console(stderr=True, highlight=False)
"""For people: progress, hints, errors. Colour only on a terminal, and never with NO_COLOR."""


_WIDE = 10_000


@dataclass(frozen=True)
class Output:
    """Prints results as a table, or as JSON when asked."""

    json: bool

    def rows(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A list of results."""
        if self.json:
            self.data(list(rows))
            return
        table = Table(title=title, title_justify="left", show_edge=False)
        for column in rows[0] if rows else {"(none)": None}:
            # An id that is cut short cannot be copied into the next command.
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        # What is in a cell is data (titles, reasons), never markup.
        console = Console(highlight=False, markup=False)
        if not console.is_terminal:
            console.width = _WIDE  # For grep and awk: a row stays one line.
        console.print(table)

    def record(self, title: str, record: Mapping[str, Any]) -> None:
        """One result with named values."""
        if self.json:
            self.data(dict(record))
            return
        self.rows(title, [{"": name, title: value} for name, value in record.items()])

    def data(self, value: Any) -> None:
        """JSON on one line."""
        sys.stdout.write(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
        sys.stdout.flush()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return "" if value is None else str(value)


def tell_refused(refused: Refused, as_json: bool) -> None:
    """On stderr what was refused: `{"refused": {"code", "expected", "came", "fix"}}`, or four lines."""
    told = {"expected": refused.expected, "came": refused.came, "fix": refused.fix}
    if as_json:
        _tell({"refused": {"code": refused.code} | told})
        return
    messages.print(f"[bold red]refused[/] ({refused.code})", soft_wrap=True)
    for name, text in told.items():
        messages.print(f"  {name:<9} {text}", markup=False, soft_wrap=True)


def tell_unavailable(came: str, fix: str, as_json: bool) -> None:
    """On stderr what cannot be reached: `{"unavailable": {"came", "fix"}}`, or a line and the fix, if any."""
    if as_json:
        _tell({"unavailable": {"came": came, "fix": fix}})
        return
    messages.print(f"[bold yellow]unavailable[/] {escape(came)}", soft_wrap=True)
    if fix:
        messages.print(f"  {fix}", markup=False)


def _tell(why: Mapping[str, Any]) -> None:
    sys.stderr.write(orjson.dumps(why).decode() + "\n")
    sys.stderr.flush()


def progress() -> Progress:
    """A progress display on stderr: bars on a terminal, nothing that garbles a log elsewhere."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
    )
