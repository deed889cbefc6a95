"""`skewless leaf`: one shard of the index, for a root to ask."""

from typing import Annotated

import typer

from features.shard_slices import Shard, read_shard
from schemas.errors import Refused, RetryableError

from .cli_options import Json
from .output import Output, messages
from .process import log_to_stderr
from .settings import Settings
from .signals import serve_until_signalled


def _shard(text: str) -> Shard:
    try:
        return read_shard(text)
    except Refused as error:
        raise typer.BadParameter(f"{error.expected}; {error.came} is none") from error


def leaf(
    shard: Annotated[
        Shard, typer.Option(parser=_shard, metavar="N/OF", help="Which shard: 1/3 is the first of three.")
    ],
    as_json: Json = False,
) -> None:
    """Run a leaf until SIGTERM: it holds one shard of the index and answers a root's searches.

    The root is `skewless serve` with SKEWLESS_LEAVES. What a leaf answers is for roots only: keep its port
    on loopback or on a network of their own.

    Example: SKEWLESS_LEAF_PORT=8091 skewless leaf --shard 1/2
    """
    from serving.leaf_app import leaf_server  # noqa: PLC0415 - keeps `--help` quick
    from serving.server import tune_interpreter  # noqa: PLC0415

    from . import wiring, wiring_shards  # noqa: PLC0415

    log_to_stderr()
    settings = Settings.load()
    parts = wiring_shards.leaf_parts(settings, shard, wiring.fresh_rows(settings))
    tune_interpreter()
    running = leaf_server(parts, settings.http_host, settings.leaf_port)
    try:
        listener = running.config.bind_socket()
    except SystemExit as taken:  # uvicorn has logged why
        fix = "end what listens there, or set SKEWLESS_LEAF_PORT"
        raise RetryableError(f"{settings.http_host}:{settings.leaf_port} cannot be bound: {fix}") from taken
    address = f"{settings.http_host}:{listener.getsockname()[1]}"
    if as_json:
        Output(True).data({"shard": str(shard), "address": address})
    messages.print(f"shard {shard}  {address}")
    serve_until_signalled(running, listener)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(leaf)
