"""Commands that run a process: broker, enrichment, snapshots, server, training, replay, demo."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schemas.errors import RetryableError

from .cli_options import Json, JsonAtEnd, MetricsPort, no_publish
from .output import Output, messages, progress
from .process import log_to_stderr, serve_metrics
from .settings import Settings
from .signals import serve_until_signalled, until_signalled

if TYPE_CHECKING:
    from models.training import Progress as TrainingProgress

Live = Literal["no", "serving", "candidate"]


def broker(as_json: Json = False) -> None:
    """Run the embedded broker until Ctrl-C and print its address. For demos and tests only.

    Example: skewless broker --json
    """
    from streams.embedded_broker import WARNING, EmbeddedBroker  # noqa: PLC0415 - keeps `--help` quick

    with until_signalled() as stop, EmbeddedBroker() as running:
        messages.print(WARNING, style="yellow")
        Output(as_json).record("broker", {"bootstrap_servers": running.bootstrap_servers})
        stop.wait()


def topics(as_json: Json = False) -> None:
    """Create the Kafka topics that are missing, and check those that are there.

    Example: SKEWLESS_KAFKA_BOOTSTRAP_SERVERS=localhost:9092 skewless topics
    """
    from streams.kafka import ensure_topics  # noqa: PLC0415

    from .kafka_connection import kafka_settings  # noqa: PLC0415

    report = ensure_topics(kafka_settings(Settings.load()))
    Output(as_json).record("topics", dataclasses.asdict(report))


def enrich(
    worker: Annotated[int, typer.Option(min=0, help="This worker's number; each has its own state.")] = 0,
    metrics_port: MetricsPort = 0,
    as_json: JsonAtEnd = False,
) -> None:
    """Run an enrichment worker until SIGTERM: Pin events in, embedded Pins out.

    It waits for a live tower and for a broker, and says so.

    Example: SKEWLESS_KAFKA_BOOTSTRAP_SERVERS=localhost:9092 skewless enrich --worker 0
    """
    from streams.broker_wait import wait_for_broker  # noqa: PLC0415

    from . import wiring  # noqa: PLC0415
    from .kafka_connection import kafka_settings  # noqa: PLC0415

    log_to_stderr()
    settings = Settings.load()
    kafka = kafka_settings(settings)
    with until_signalled() as stop:
        wiring.wait_for_live_tower(settings, stop.is_set)
        if not wait_for_broker(kafka, stop.is_set):
            return
        with wiring.enrichment_worker(settings, worker, serve_metrics(metrics_port)) as running:
            running.run(stop.is_set)
    if as_json:
        Output(True).data(wiring.worker_status_reader(settings.status_file(f"worker-{worker}"))())


def snapshots(
    publish: Annotated[bool, typer.Option(help="Build and publish a release of each snapshot.")] = True,
    metrics_port: MetricsPort = 0,
    as_json: JsonAtEnd = False,
) -> None:
    """Run the snapshot cutter until SIGTERM: embedded Pins in, hourly snapshots (and releases) out.

    It waits for a live tower, and says so.

    Example: SKEWLESS_CUT_CLOCK=wall skewless snapshots --no-publish
    """
    from . import wiring  # noqa: PLC0415
    from .kafka_connection import kafka_settings  # noqa: PLC0415
    from .releasing import Releaser  # noqa: PLC0415

    log_to_stderr()
    settings = Settings.load()
    kafka_settings(settings)  # Without a broker there is nothing to wait for.
    serve_metrics(metrics_port).register(wiring.snapshot_telemetry(settings))
    with wiring.cutting_alone(settings), until_signalled() as stop:
        wiring.wait_for_live_tower(settings, stop.is_set)
        if stop.is_set():
            return
        cutter, consumer = wiring.snapshot_cutter(settings, Releaser(settings) if publish else no_publish)
        try:
            cutter.run(stop.is_set)
        finally:
            consumer.close()
    if as_json:
        Output(True).data(dataclasses.asdict(cutter.counts))


def serve(
    embedded_broker: Annotated[bool, typer.Option(hidden=True, help="The console says so.")] = False,
    as_json: Json = False,
) -> None:
    """Run the server until SIGTERM: POST /v1/rank, the console at /, metrics at /metrics.

    At SIGTERM it is not ready any more and answers on for SKEWLESS_DRAIN_SECONDS; then it finishes and ends.

    Example: SKEWLESS_HTTP_PORT=8080 skewless serve
    """
    from serving.server import server, tune_interpreter  # noqa: PLC0415
    from serving.version_policy import WARNING  # noqa: PLC0415

    from . import wiring  # noqa: PLC0415

    log_to_stderr()
    settings = Settings.load()
    parts = wiring.serving_parts(settings, embedded_broker=embedded_broker)
    tune_interpreter()
    drain_seconds = settings.drain_seconds
    running = server(parts, settings.http_host, settings.http_port, drain_seconds=drain_seconds)
    try:
        listener = running.config.bind_socket()
    except SystemExit as taken:  # uvicorn has logged why
        fix = "end what listens there, or set SKEWLESS_HTTP_PORT"
        raise RetryableError(f"{settings.http_host}:{settings.http_port} cannot be bound: {fix}") from taken
    address = f"http://{settings.http_host}:{listener.getsockname()[1]}"
    if settings.version_policy == "tolerate":
        messages.print(WARNING, style="bold red", soft_wrap=True)
    if as_json:
        policy = {"version_policy": settings.version_policy}
        Output(True).data({"console": f"{address}/", "rank": f"{address}/v1/rank"} | policy)
    messages.print(f"console    {address}/")
    messages.print(f"ranking    POST {address}/v1/rank")
    serve_until_signalled(running, listener)


def train(  # noqa: PLR0917 - options, each with a default
    first_week: Annotated[int, typer.Option(min=1, max=52, help="First week of the year to train on.")] = 1,
    last_week: Annotated[int, typer.Option(min=1, max=51, help="Last week to train on.")] = 26,
    held_out_weeks: Annotated[int, typer.Option(min=1, max=26, help="Weeks after it to judge on.")] = 2,
    live: Annotated[
        Live, typer.Option(help="Name it in LIVE, as the serving tower or as a candidate.")
    ] = "no",
    name: Annotated[str, typer.Option(help="What the result file is called.")] = "last",
    item_knn: Annotated[bool, typer.Option(help="Judge item-kNN too; the slowest of the baselines.")] = True,
    as_json: Json = False,
) -> None:
    """Train a two-tower checkpoint on The Complete Journey and judge it on later real baskets.

    Example: skewless train --first-week 1 --last-week 26 --live serving
    """
    from evaluation.recipe import Recipe  # noqa: PLC0415
    from evaluation.splits import TimeSplit  # noqa: PLC0415

    from .training import train_tower  # noqa: PLC0415

    try:
        split = TimeSplit(first_week, last_week, held_out_weeks)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with progress() as bars:
        task = bars.add_task("train", total=None, note="reading the data set")

        def show(done: "TrainingProgress") -> None:
            note = f"{done.rows_per_second:,.0f} pairs/s, loss {done.loss:.3f}"
            bars.update(task, total=done.steps, completed=done.step, note=note)

        summary = train_tower(Settings.load(), Recipe(split, with_item_knn=item_knn), live, name, show)
    if as_json:
        Output(True).data(summary)
        return
    Output(False).record("tower", {name: summary[name] for name in ("tower_version", "rows", "seconds")})
    Output(False).rows(f"recall@20 on {summary['judged_baskets']} later baskets", summary["comparison"])


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit when the run is over, instead of serving on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")] = False,
    data_dir: Annotated[Path, typer.Option(help="Where to keep it all; emptied first.")] = Path("var/demo"),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The server's port; 0 takes a free one.")
    ] = 8080,
    queries_per_second: Annotated[
        float, typer.Option(min=0.1, max=1000, help="Live queries meanwhile.")
    ] = 25.0,
) -> None:
    """Run the whole system on The Complete Journey: stream, train, release, swap, rank.

    Example: skewless demo --once --json
    """
    from .demo import DemoOptions, run_demo  # noqa: PLC0415

    with until_signalled() as stop:
        result = run_demo(DemoOptions(once, data_dir, port, queries_per_second), stop)
        if as_json:
            Output(True).data(result)
        if not once:
            messages.print("Ctrl-C ends the demo.")
            stop.wait()


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (demo, serve, enrich, snapshots, train, broker, topics):
        app.command()(command)
