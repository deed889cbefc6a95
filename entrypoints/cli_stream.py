"""`skewless stream`: the stateful steps that Faust drives."""

from typing import Annotated

import typer

from .cli_options import JsonAtEnd, MetricsPort
from .output import Output
from .process import log_to_stderr, serve_metrics
from .settings import Settings


def stream(
    step: Annotated[
        list[str] | None, typer.Option("--step", help="Run only this step; may be repeated. None: all.")
    ] = None,
    worker: Annotated[int, typer.Option(min=0, help="This process's number; each has its own state.")] = 0,
    metrics_port: MetricsPort = 0,
    as_json: JsonAtEnd = False,
) -> None:
    """Run the stateful steps until SIGTERM: day windows of visits and engagements, and their like.

    Start it again when it ends with 3: the broker was away for too long, or nothing moved.

    Example: SKEWLESS_KAFKA_BOOTSTRAP_SERVERS=localhost:9092 skewless stream --step windows
    """
    from . import wiring_streams  # noqa: PLC0415 - keeps `--help` quick

    log_to_stderr()
    settings, metrics = Settings.load(), serve_metrics(metrics_port)
    with wiring_streams.stream_run(settings, worker, step or (), metrics) as run:
        from streams.app import run_until_signalled  # noqa: PLC0415

        run_until_signalled(run.apps, run.loops)
    if as_json:
        Output(True).data({driver.name: {"events": driver.events_taken} for driver in run.drivers})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(stream)
