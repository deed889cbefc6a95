"""Options that several commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonAtEnd = Annotated[bool, typer.Option("--json", help="End with what it did, as JSON.")]
MetricsPort = Annotated[
    int,
    typer.Option(
        min=0, max=65535, help="Serve Prometheus metrics on this port of SKEWLESS_METRICS_HOST; 0: do not."
    ),
]


def no_publish(_: object) -> None:
    """`--no-publish`: no release is made of this snapshot."""
