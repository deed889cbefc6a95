"""`skewless ship`: ranking logs and release moves, from files onto Kafka."""

import dataclasses
import socket
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import JsonAtEnd
from .output import Output, progress
from .process import log_to_stderr
from .settings import Settings
from .signals import until_signalled

if TYPE_CHECKING:
    from streams.shipping import ShipCounts


def ship(
    once: Annotated[bool, typer.Option("--once", help="Ship what is there now, and end.")] = False,
    as_json: JsonAtEnd = False,
) -> None:
    """Ship ranking logs and release moves to Kafka until SIGTERM, at least once.

    Example: SKEWLESS_KAFKA_BOOTSTRAP_SERVERS=localhost:9092 skewless ship --once --json
    """
    # Here, because these imports take longer than printing `--help`.
    from index.object_releases import ObjectReleases  # noqa: PLC0415
    from streams.journals import RankingJournal, TrailJournal, journals  # noqa: PLC0415
    from streams.ship_sender import KafkaSender  # noqa: PLC0415
    from streams.shipping import JournalShipper, ShipperSettings  # noqa: PLC0415

    from .kafka_connection import kafka_settings  # noqa: PLC0415
    from .store_connection import release_store  # noqa: PLC0415

    log_to_stderr()
    settings = Settings.load()
    sender = KafkaSender(kafka_settings(settings))
    store = release_store(settings)
    files = journals(settings.logs_dir, settings.releases_dir)
    if isinstance(store, ObjectReleases):
        trail = settings.releases_dir / ".moves" / "trail.jsonl"
        moves = TrailJournal(trail, store, settings.store_poll_seconds)
        files = (moves, RankingJournal(settings.logs_dir))
    shipper = JournalShipper(
        files,
        sender,
        ShipperSettings(settings.ship_position_file, f"//{socket.gethostname()}/skewless"),
    )
    try:
        with shipper.locked(), until_signalled() as stop, progress() as bars:
            task = bars.add_task("ship", total=None, note="")

            def show(counts: "ShipCounts") -> None:
                done, left = counts.shipped_bytes, counts.waiting_bytes
                note = f"{sum(counts.shipped.values()):,} lines, {left:,} bytes left"
                bars.update(task, completed=done, total=done + left, note=note)

            if once:
                shipper.ship_once(show, stop.is_set)
            else:
                shipper.run(stop.is_set, stop.wait, show)
    finally:
        sender.close()
    Output(as_json).record("shipped", dataclasses.asdict(shipper.counts))


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(ship)
