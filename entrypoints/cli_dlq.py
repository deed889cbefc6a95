"""`skewless dlq`: look at dead letters and put them back."""

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import DeadLetterReason

from .cli_options import Json
from .clocks import now_ms
from .durations import seconds, spoken
from .meter import meter
from .output import Output, messages
from .settings import Settings

if TYPE_CHECKING:
    from streams.letters import Letter, LetterFilter, Reading
    from streams.topic_reader import TopicReader

dlq = typer.Typer(no_args_is_help=True, help="Dead letters: what was turned down, why, and putting it back.")

Topic = Annotated[str, typer.Option(help="Whose dead letters, such as pin.changed.v1.")]
AnyTopic = Annotated[str | None, typer.Option(help="Whose dead letters; none: every topic's.")]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help=f"{', '.join(DeadLetterReason)}; may be repeated.")
]
Partition = Annotated[int | None, typer.Option(min=0, help="Partition of the dead-letter topic.")]
Offset = Annotated[int | None, typer.Option(min=0, help="Offset on the dead-letter topic.")]
Source = Annotated[str | None, typer.Option(help="Only messages of this CloudEvents source.")]
MinAge = Annotated[
    float | None, typer.Option(parser=seconds, metavar="15m|36h|7d", help="Only messages at least so old.")
]
MaxAge = Annotated[
    float | None, typer.Option(parser=seconds, metavar="15m|36h|7d", help="Only messages at most so old.")
]


def _reader() -> "TopicReader":
    from streams.topic_reader import TopicReader  # noqa: PLC0415 - keeps `--help` quick

    from .kafka_connection import kafka_settings  # noqa: PLC0415

    return TopicReader(kafka_settings(Settings.load()))


def _filter(reasons: list[str] | None, **wanted: Any) -> "LetterFilter":
    from streams.letters import LetterFilter  # noqa: PLC0415

    return LetterFilter(frozenset(reasons or ()), **wanted)


def _notice(show: Callable[[int, int | None, str], None]) -> "Reading":
    from streams.letters import Reading  # noqa: PLC0415

    return Reading(notice=lambda now: show(now.done, now.total, ""))


@dlq.command("list")
def list_letters(topic: AnyTopic = None, reasons: Reasons = None, as_json: Json = False) -> None:
    """Count the dead letters by topic and reason, with when the oldest and the newest came in.

    Example: skewless dlq list --reason decode_error
    """
    from schemas.cloudevents import iso  # noqa: PLC0415
    from schemas.topics import DEAD_LETTERED  # noqa: PLC0415
    from streams.letters import source_topic  # noqa: PLC0415

    wanted = _filter(reasons)
    topics = [source_topic(topic)] if topic else [one.name for one in DEAD_LETTERED]
    with _reader() as reader, meter("reading", "records") as show:
        counted = _count(reader, topics, wanted, _notice(show), missing_is_fine=topic is None)
    rows = [
        {
            "topic": name,
            "reason": reason,
            "letters": one.letters,
            "replayed": one.replayed,
            "oldest": iso(one.oldest_ms),
            "newest": iso(one.newest_ms),
        }
        for (name, reason), one in sorted(counted.items())
    ]
    Output(as_json).rows("dead letters", rows)
    if rows and not as_json:
        messages.print("`skewless dlq show --topic TOPIC` prints some of them.", markup=False)


@dataclasses.dataclass
class _Count:
    letters: int = 0
    replayed: int = 0
    oldest_ms: int = -1
    newest_ms: int = -1

    def add(self, letter: "Letter") -> None:
        came = letter.ingested_at_ms
        self.oldest_ms = came if not self.letters else min(self.oldest_ms, came)
        self.newest_ms = max(self.newest_ms, came)
        self.letters += 1
        self.replayed += letter.replayed


def _count(
    reader: "TopicReader",
    topics: list[str],
    wanted: "LetterFilter",
    reading: "Reading",
    *,
    missing_is_fine: bool,
) -> dict[tuple[str, str], _Count]:
    from schemas.topics import DLQ_SUFFIX  # noqa: PLC0415
    from streams.letters import read_letters  # noqa: PLC0415

    there = reader.topics()
    counted: dict[tuple[str, str], _Count] = {}
    for topic in topics:
        if missing_is_fine and topic + DLQ_SUFFIX not in there:
            continue
        for letter in read_letters(reader, topic, reading=reading):
            if wanted.takes(letter, 0):
                counted.setdefault((topic, letter.reason), _Count()).add(letter)
    return counted


@dlq.command()
def show(  # noqa: PLR0913, PLR0917 - options, each with a default
    topic: Topic,
    reasons: Reasons = None,
    partition: Partition = None,
    offset: Offset = None,
    source: Source = None,
    min_age: MinAge = None,
    max_age: MaxAge = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 10,
    as_json: Json = False,
) -> None:
    """Print dead letters: reason, story, headers and body (vectors shortened, what is no text as hex).

    Example: skewless dlq show --topic pin.changed.v1 --reason schema_invalid --limit 3
    """
    wanted = _filter(
        reasons,
        partition=partition,
        offset=offset,
        ce_source=source,
        min_age_seconds=min_age,
        max_age_seconds=max_age,
    )
    from streams.letters import read_letters  # noqa: PLC0415

    shown, now = 0, now_ms()
    with _reader() as reader:
        for letter in read_letters(reader, topic):
            if not wanted.takes(letter, now):
                continue
            _print_letter(letter, now, as_json)
            shown += 1
            if shown == limit:
                break
    if not shown:
        messages.print("no such letter; `skewless dlq list` counts them", markup=False)


def _print_letter(letter: "Letter", now_ms: int, as_json: bool) -> None:
    from schemas.cloudevents import iso  # noqa: PLC0415
    from streams.letters import would_fail_again  # noqa: PLC0415
    from streams.message_text import decoded, escaped, readable, readable_headers  # noqa: PLC0415

    story = {
        "reason": letter.reason,
        "message": letter.message,
        "letter": f"{letter.dlq_topic}/{letter.partition}/{letter.offset}",
        "came_from": f"{letter.topic}/{letter.source_partition}/{letter.source_offset}",
        "came_in": iso(letter.ingested_at_ms),
        "turned_down": iso(letter.dead_at_ms),
        "stage": letter.stage,
        "worker": letter.worker,
        "attempts": letter.attempts,
        "model_version": letter.model_version,
        "whole": letter.whole,
        "replayed": letter.replayed,
        "would_fail_again": would_fail_again(letter),
        "key": readable(letter.key),
        "headers": readable_headers(letter.headers),
        "body": decoded(letter.topic, letter.value) if letter.whole else None,
    }
    if story["body"] is None:
        story["body"] = readable(letter.value)
    if as_json:
        Output(True).data(story)
        return
    title = f"{escaped(letter.reason)}, {spoken(letter.age_ms(now_ms))} old"
    told = {name: one for name, one in story.items() if one not in (None, "", {})}
    Output(False).record(
        title, {name: escaped(one) if isinstance(one, str) else one for name, one in told.items()}
    )


@dlq.command()
def replay(  # noqa: PLR0913, PLR0917 - options, each with a default
    topic: Topic,
    reasons: Reasons = None,
    partition: Partition = None,
    offset: Offset = None,
    source: Source = None,
    min_age: MinAge = None,
    max_age: MaxAge = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Put back at most so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, with ages.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what the present schema turns down again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put dead letters back on the topic they came from, each at most once; running it again does no harm.

    A letter that is put back is a new message: an old partial update is applied as a change of now, and may
    overwrite newer values of the same fields. --dry-run shows every letter's age; --max-age leaves old ones.

    Letters that the present schema would turn down again stay where they are (and are counted), unless
    --force. A kill in the middle can put back twice the one letter in flight; nothing is lost.

    Example: skewless dlq replay --topic pin.changed.v1 --reason model_error --max-age 1h --dry-run
    """
    from streams.letter_replay import ReplayJob  # noqa: PLC0415
    from streams.letters import source_topic  # noqa: PLC0415

    wanted = _filter(
        reasons,
        partition=partition,
        offset=offset,
        ce_source=source,
        min_age_seconds=min_age,
        max_age_seconds=max_age,
    )
    job = ReplayJob(source_topic(topic), wanted, now_ms(), limit, force)
    counts = _rehearse(job, as_json) if dry_run else _replay(job)
    Output(as_json).record("dead letters", {"topic": job.topic, "dry_run": dry_run} | counts)


def _rehearse(job: Any, as_json: bool) -> dict[str, int]:
    from streams.letter_replay import rehearse  # noqa: PLC0415
    from streams.message_text import readable  # noqa: PLC0415

    def tell(letter: "Letter", result: str, why: str) -> None:
        row = {
            "letter": f"{letter.partition}/{letter.offset}",
            "key": readable(letter.key),
            "reason": letter.reason,
            "age_seconds": letter.age_ms(job.now_ms) // 1000,
            "result": result,
            "why": why,
        }
        if as_json:
            Output(True).data(row)
            return
        age = spoken(letter.age_ms(job.now_ms))
        typer.echo(f"{row['letter']:>12}  {age:>9} old  key {row['key']}  {letter.reason} → {result} {why}")

    with _reader() as reader:
        return dataclasses.asdict(rehearse(reader, job, tell))


def _replay(job: Any) -> dict[str, int]:
    from schemas.topics import DLQ_SUFFIX  # noqa: PLC0415
    from streams.letter_replay import GroupTurn, KafkaLetterSender, Replay  # noqa: PLC0415

    from .kafka_connection import kafka_settings  # noqa: PLC0415

    settings, replayed = kafka_settings(Settings.load()), [0]
    with _reader() as reader, meter("replaying", "records") as show:
        reader.spans(job.topic + DLQ_SUFFIX)  # No topic, no broker: say so before waiting for a turn.

        def count(*_: object) -> None:
            replayed[0] += 1

        turn = GroupTurn(settings, job.topic + DLQ_SUFFIX, time.monotonic)
        try:
            counts = Replay(
                reader,
                KafkaLetterSender(settings),
                turn,
                job,
                count,
                lambda now: show(now.done, now.total, f"{replayed[0]:,} put back"),
            ).run()
        finally:
            turn.close()
    return dataclasses.asdict(counts)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(dlq, name="dlq")
