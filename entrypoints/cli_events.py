"""`skewless events`: check a file of events before it is sent, look at messages that are on Kafka."""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from schemas.errors import Refused

from .cli_options import Json
from .clocks import now_ms
from .meter import meter
from .output import EXIT_REFUSED, Output, messages
from .settings import Settings
from .signals import until_signalled

if TYPE_CHECKING:
    from streams.event_checks import Check
    from streams.tail import Start
    from streams.topic_reader import Record

events = typer.Typer(no_args_is_help=True, help="Events: check a file of them, look at those on Kafka.")


@events.command()
def validate(
    file: Annotated[str, typer.Argument(help="JSON Lines; - reads standard input.")],
    topic: Annotated[str | None, typer.Option(help="Topic of the lines that do not name theirs.")] = None,
    as_json: Json = False,
) -> None:
    """Check a file of events, one per line; exit 1 when a check fails, with counts and line numbers.

    A line is an event, its topic given by --topic, or {"topic": …, "key": …, "value": {…}}.

    Example: skewless events validate changes.jsonl --topic pin.changed.v1
    """
    from streams.event_checks import EventChecks  # noqa: PLC0415 - keeps `--help` quick
    from streams.event_lines import read_blocks  # noqa: PLC0415

    checks = EventChecks(topic, now_ms())
    begun, lines = time.monotonic(), 0
    with _opened(file) as (source, size), meter("checking", "bytes") as show:
        for block in read_blocks(source):
            checks.add(block)
            lines = block.first_line + len(block.lines) - 1
            rate = lines / max(time.monotonic() - begun, 1e-9)
            show(block.bytes_read, size, f"{rate:,.0f} lines/s")
    results = checks.results()
    seconds = time.monotonic() - begun
    if not lines:
        raise Refused("empty_file", "events", f"none in {file}", "One JSON object per line.")
    _print_results(results, checks.events, as_json)
    messages.print(f"{lines:,} lines in {seconds:.1f} s ({lines / max(seconds, 1e-9):,.0f}/s)", markup=False)
    if any(check.failed for check in results):
        raise typer.Exit(EXIT_REFUSED)


@contextmanager
def _opened(name: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The file and its size; standard input has none."""
    if name == "-":
        yield sys.stdin.buffer, None
        return
    path = Path(name)
    if not path.is_file():
        raise typer.BadParameter(f"{name!r}: no such file")
    with path.open("rb") as opened:
        yield opened, path.stat().st_size


def _print_results(results: "list[Check]", events: dict[str, int], as_json: bool) -> None:
    from streams.event_checks import CHECKS  # noqa: PLC0415

    if as_json:
        Output(True).data(
            {
                "ok": not any(check.failed for check in results),
                "events": events,
                "checks": [
                    {
                        "check": check.name,
                        "result": check.result,
                        "what": CHECKS[check.name],
                        "failed": check.failed,
                        "skipped": check.skipped or None,
                        "examples": [{"line": line, "detail": detail} for line, detail in check.examples],
                    }
                    for check in results
                ],
            }
        )
        return
    for topic, count in sorted(events.items()):
        typer.echo(f"      {count:>12,}  valid events of {topic}")
    for check in results:
        typer.echo(f"{check.result}  {check.failed:>12,}  {check.name}: {CHECKS[check.name]}{_why(check)}")
        for line, detail in check.examples:
            typer.echo(f"                      line {line}: {detail}")


def _why(check: "Check") -> str:
    return f" ({check.skipped})" if check.skipped else ""


@events.command()
def tail(  # noqa: PLR0917 - options, each with a default
    topic: Annotated[str, typer.Option(help="A topic; its dead letters are on TOPIC.dlq.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many; 10 without --follow or --from.")
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="last|beginning|end|OFFSET", help="Where to start.")
    ] = "last",
    partition: Annotated[int | None, typer.Option(min=0, help="Only this partition.")] = None,
    key: Annotated[str | None, typer.Option(help="Only messages of this key.")] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Print bodies as JSON, vectors cut short.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per message.")] = False,
) -> None:
    """Print messages: place, time, key, headers and body. Joins no consumer group and commits nothing.

    Without --from the newest --limit messages; with it what is there from that place on, up to --limit.

    Example: skewless events tail --topic pin.changed.v1 --limit 5 --decode
    """
    from streams.tail import TailJob  # noqa: PLC0415
    from streams.tail import tail as read_tail  # noqa: PLC0415
    from streams.topic_reader import TopicReader  # noqa: PLC0415

    from .kafka_connection import kafka_settings  # noqa: PLC0415

    job = TailJob(topic, _start(start), partition, None if key is None else key.encode(), limit, follow)
    settings = kafka_settings(Settings.load())
    with until_signalled() as stop, TopicReader(settings) as reader:
        shown = 0
        try:
            for record in read_tail(reader, job, stop.is_set):
                _print_record(record, decode, as_json)
                shown += 1
        except BrokenPipeError:
            # `| head` has seen enough, and what is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not shown and not follow:
            messages.print("no such message", markup=False)


def _start(text: str) -> "Start":
    match text:
        case "last" | "beginning" | "end":
            return text
    if text.isdecimal():
        return int(text)
    raise typer.BadParameter(f"--from {text!r}: last, beginning, end or an offset")


def _print_record(record: "Record", decode: bool, as_json: bool) -> None:
    from schemas.cloudevents import iso  # noqa: PLC0415
    from streams.message_text import escaped, json_line, readable, readable_headers  # noqa: PLC0415

    body: Any = _body(record, decode)
    place = f"{record.topic}/{record.partition}/{record.offset}"
    if as_json:
        raw = dataclasses.asdict(record)
        shown = {name: raw[name] for name in ("topic", "partition", "offset", "timestamp_ms")}
        headers = readable_headers(record.headers)
        Output(True).data(shown | {"key": readable(record.key), "headers": headers, "body": body})
        return
    typer.echo(f"{place}  {iso(record.timestamp_ms)}  key {readable(record.key)}")
    for name, value in readable_headers(record.headers).items():
        typer.echo(f"    {escaped(name)}: {value}")
    if isinstance(body, dict):
        for name, value in body.items():
            typer.echo(
                f"  {escaped(name)} = {escaped(value) if isinstance(value, str) else json_line(value)}"
            )
    elif body is None:
        typer.echo("  (no value: deletes this key)")
    else:
        # What is no object was escaped by `readable`, or is JSON all the same.
        typer.echo(f"  {escaped(body) if isinstance(body, str) else json_line(body)}")


def _body(record: "Record", decode: bool) -> Any:
    from schemas.topics import DLQ_SUFFIX  # noqa: PLC0415
    from streams.message_text import decoded, readable  # noqa: PLC0415

    as_decoded = decoded(record.topic.removesuffix(DLQ_SUFFIX), record.value) if decode else None
    return readable(record.value) if as_decoded is None else as_decoded


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(events, name="events")
