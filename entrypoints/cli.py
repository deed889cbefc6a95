"""`skewless`: the command line. One function a command: read settings, wire, call, print.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 refused or failed a check, 2 wrong
usage, 3 something needed cannot be reached (a broker, a server, a store, the disk): try again later, 70 the
watchdog of a worker ended it: start it again. With --json why it ended with 1 or 3 is an object on stderr.
"""

import errno
import sys
from importlib.metadata import version

import typer

from schemas.errors import Refused, RetryableError

from . import (
    cli_dlq,
    cli_doctor,
    cli_embed,
    cli_events,
    cli_inspect,
    cli_processes,
    cli_release,
    cli_rollover,
    cli_schema,
    cli_shards,
    cli_ship,
    cli_skew,
    cli_stream,
    cli_training_rows,
)
from .output import EXIT_REFUSED, EXIT_UNAVAILABLE, tell_refused, tell_unavailable

_DISK_SAYS_NO = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EIO,
    errno.ESTALE,
)

app = typer.Typer(
    name="skewless",
    help="Ads retrieval and ranking in which query and Pin embeddings always come from one checkpoint.\n\n"
    "Start with `skewless demo`. Every command has --json and an example in its --help.\n\n"
    "Exit codes: 0 done, 1 refused, 2 wrong usage, 3 unavailable (try again), 70 a worker was stuck "
    "(start it again).",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("skewless"))
        raise typer.Exit


@app.callback()
def _options(
    show_version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Options that stand before the command."""


cli_processes.register(app)
cli_release.register(app)
cli_rollover.register(app)
cli_schema.register(app)
cli_inspect.register(app)
cli_dlq.register(app)
cli_doctor.register(app)
cli_embed.register(app)
cli_events.register(app)
cli_stream.register(app)
cli_shards.register(app)
cli_ship.register(app)
cli_skew.register(app)
cli_training_rows.register(app)


def main() -> None:
    """Entry point of the `skewless` command."""
    # Known to the command alone, which may have ended before it began.
    as_json = "--json" in sys.argv[1:]
    try:
        app()
    except Refused as refused:
        tell_refused(refused, as_json)
        sys.exit(EXIT_REFUSED)
    except RetryableError as error:
        tell_unavailable(str(error), "", as_json)
        sys.exit(EXIT_UNAVAILABLE)
    except OSError as error:
        if error.errno not in _DISK_SAYS_NO or error.filename is None:
            raise
        tell_unavailable(str(error), "`skewless doctor` looks at the data directory and the disk.", as_json)
        sys.exit(EXIT_UNAVAILABLE)
    except Exception as error:
        # Looked up so that `--help` stays quick: what is not loaded cannot have raised it.
        kafka = sys.modules.get("confluent_kafka")
        if kafka is None or not isinstance(error, kafka.KafkaException):
            raise
        said, fix = f"Kafka: {error.args[0]}", "`skewless doctor` looks at the settings and the broker."
        tell_unavailable(said, fix, as_json)
        sys.exit(EXIT_UNAVAILABLE)


if __name__ == "__main__":
    main()
