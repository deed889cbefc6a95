"""`skewless training-rows`: served ads with what came of them, as a Parquet file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import Json
from .output import Output, progress
from .settings import Settings

if TYPE_CHECKING:
    from streams.topic_rows import RowsReading


def training_rows(
    out: Annotated[Path | None, typer.Option(help="The Parquet file to write.", dir_okay=False)] = None,
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Only list the columns: source, feature, serving path.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Collect impression.attributed.v1 into one table, newest row per impression, with user histories.

    A user's history holds actions strictly before the query, oldest first.

    Example: skewless training-rows --out rows.parquet --json
    """
    from datasets.attributed_columns import lineage as columns  # noqa: PLC0415 - keeps `--help` quick
    from features.definitions import registry  # noqa: PLC0415

    if lineage:
        Output(as_json).rows("columns", columns(registry()))
        return
    if out is None:
        raise typer.BadParameter("--out FILE.parquet, or --lineage")

    from streams.topic_reader import TopicReader  # noqa: PLC0415

    from .kafka_connection import kafka_settings  # noqa: PLC0415
    from .training_table import collect  # noqa: PLC0415

    settings = Settings.load()
    with TopicReader(kafka_settings(settings)) as reader, progress() as bars:
        task = bars.add_task("read", total=None, note="")

        def show(reading: "RowsReading") -> None:
            bars.update(task, total=reading.total, completed=reading.done, note="messages")

        summary = collect(reader, settings.snapshots_dir, out, show)
    Output(as_json).record("training rows", summary)


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("training-rows")(training_rows)
