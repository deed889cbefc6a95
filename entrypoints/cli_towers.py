"""Commands over towers: which checkpoints there are, and which the worker embeds with."""

from typing import Annotated

import typer

from features.definitions import registry
from schemas.errors import Refused

from .cli_options import Json
from .output import Output
from .settings import Settings

towers = typer.Typer(no_args_is_help=True, help="Two-tower checkpoints and which of them are live.")


@towers.command("list")
def list_towers(as_json: Json = False) -> None:
    """List the checkpoints, the live ones marked.

    Example: skewless towers list
    """
    from models.checkpoint import read_tower_manifest  # noqa: PLC0415
    from models.live_towers import known_towers, read_live_towers  # noqa: PLC0415

    root = Settings.load().towers_dir
    live = read_live_towers(root)
    rows = []
    for version in known_towers(root):
        try:
            manifest = read_tower_manifest(root, version)
        except Refused as refused:
            nothing = dict.fromkeys(("live", "family", "dimension"))
            row = {"tower": version if as_json else version[:12], **nothing}
            rows.append(row | {"registry": f"damaged: {refused.code}", "metrics": {}})
            continue
        rows.append(
            {
                "tower": version if as_json else version[:12],
                "live": live.index(version) + 1 if version in live else None,
                "family": manifest.family,
                "dimension": manifest.dimension,
                "registry": "this one" if manifest.registry_hash == registry().content_hash else "another",
                "metrics": manifest.metrics,
            }
        )
    Output(as_json).rows("towers", rows)


@towers.command()
def live(
    versions: Annotated[list[str], typer.Argument(help="Serving version first, then a candidate.")],
    as_json: Json = False,
) -> None:
    """Say which towers the enrichment worker embeds with. A prefix of a version will do.

    Example: skewless towers live 3f2a9c11 8be01d55
    """
    from models.live_towers import complete_version, read_live_towers, write_live_towers  # noqa: PLC0415

    root = Settings.load().towers_dir
    write_live_towers(root, [complete_version(root, version) for version in versions])
    Output(as_json).record("live towers", {str(i + 1): one for i, one in enumerate(read_live_towers(root))})


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(towers, name="towers")
