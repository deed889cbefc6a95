"""Commands over towers and releases: list, show, build, check, publish, roll back."""

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from features.definitions import registry
from schemas.errors import Refused

from .output import Output
from .settings import Settings

if TYPE_CHECKING:
    from index.releases import ReleaseStore

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit trail.")]

releases = typer.Typer(no_args_is_help=True, help="Immutable releases and the one that is live.")
towers = typer.Typer(no_args_is_help=True, help="Two-tower checkpoints and which of them are live.")


@releases.command("list")
def list_releases(as_json: Json = False) -> None:
    """List the releases, the live one marked.

    Example: skewless release list
    """
    from .wiring import release_store  # noqa: PLC0415 - keeps `--help` quick

    store = release_store(Settings.load())
    current = store.current()
    rows = [_release_row(store, one) | {"live": "yes" if one == current else ""} for one in store.list()]
    Output(as_json).rows("releases", rows)


def _release_row(store: "ReleaseStore", release_id: str) -> dict[str, str | int | None]:
    """One line of the list; a damaged release has one too, so that the others can be found."""
    try:
        manifest = store.manifest(release_id)
    except Refused as refused:
        nothing = dict.fromkeys(("tower", "tier", "rows", "index", "snapshot"))
        return {"release": release_id, "live": "", **nothing, "snapshot": f"damaged: {refused.code}"}
    return {
        "release": release_id,
        "live": "",
        "tower": manifest.tower_version[:12],
        "tier": manifest.tier,
        "rows": manifest.index.rows,
        "index": manifest.index.kind,
        "snapshot": manifest.snapshot_id,
    }


@releases.command()
def show(
    release_id: Annotated[str | None, typer.Argument(help="None: the live one.")] = None,
    _as_json: Json = False,
) -> None:
    """Print a release's manifest, which is JSON either way.

    Example: skewless release show
    """
    from .wiring import release_store  # noqa: PLC0415

    store = release_store(Settings.load())
    wanted = release_id or store.current()
    if wanted is None:
        raise Refused("no_release", "a live release", "none", "`skewless release publish ID` makes one live.")
    Output(True).data(store.manifest(wanted).model_dump(mode="json"))


@releases.command()
def build(
    snapshot_id: Annotated[str, typer.Argument(help="A snapshot in the data directory.")],
    as_json: Json = False,
) -> None:
    """Build a release from a snapshot: homogeneity gate, index, checks. Does not publish it.

    Example: skewless release build realtime-2017-07-03T05-3f2a9c11
    """
    from .releasing import build_from_snapshot  # noqa: PLC0415

    manifest = build_from_snapshot(Settings.load(), snapshot_id)
    Output(as_json).record("release", {"release": manifest.release_id, "rows": manifest.index.rows})


@releases.command()
def check(
    release_id: Annotated[str | None, typer.Argument(help="None: the live one.")] = None,
    as_json: Json = False,
) -> None:
    """Load a release as a server would, every checksum and check included. Exit 1 when it is refused.

    Example: skewless release check && echo fit to serve
    """
    from .releasing import check_release  # noqa: PLC0415

    Output(as_json).rows("checks", [one.model_dump() for one in check_release(Settings.load(), release_id)])


@releases.command()
def publish(
    release_id: Annotated[str, typer.Argument(help="The release that shall be live.")],
    reason: Reason = "published by hand",
    as_json: Json = False,
) -> None:
    """Make a release live, unless a check refuses it or somebody else published meanwhile.

    Example: skewless release publish 20170703T05-3f2a9c11-0b7d --reason "after the price fix"
    """
    from .wiring import release_store  # noqa: PLC0415

    store = release_store(Settings.load())
    store.publish(
        release_id,
        actor=getpass.getuser(),
        reason=reason,
        expected_current=store.current(),
        registry_hash=registry().content_hash,
    )
    Output(as_json).record("published", {"live": store.current()})


@releases.command()
def rollback(reason: Reason = "rolled back by hand", as_json: Json = False) -> None:
    """Go back to the release that was live before this one.

    Example: skewless release rollback --reason "recall fell"
    """
    from .wiring import release_store  # noqa: PLC0415

    store = release_store(Settings.load())
    store.rollback(actor=getpass.getuser(), reason=reason, registry_hash=registry().content_hash)
    Output(as_json).record("rolled back", {"live": store.current()})


@releases.command()
def audit(as_json: Json = False) -> None:
    """Who moved CURRENT, when, from which release to which, and why.

    Example: skewless release audit
    """
    from .wiring import release_store  # noqa: PLC0415

    Output(as_json).rows("audit trail", [one.model_dump() for one in release_store(Settings.load()).audit()])


@towers.command("list")
def list_towers(as_json: Json = False) -> None:
    """List the checkpoints, the live ones marked.

    Example: skewless towers list
    """
    from models.checkpoint import read_tower_manifest  # noqa: PLC0415
    from models.live_towers import read_live_towers  # noqa: PLC0415

    root = Settings.load().towers_dir
    live = read_live_towers(root)
    found = sorted(path.parent.name for path in root.glob("*/READY"))
    rows = []
    for version in found:
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
    from models.live_towers import read_live_towers, write_live_towers  # noqa: PLC0415

    root = Settings.load().towers_dir
    known = [path.parent.name for path in root.glob("*/READY")]
    write_live_towers(root, [_complete(version, known) for version in versions])
    Output(as_json).record("live towers", {str(i + 1): one for i, one in enumerate(read_live_towers(root))})


def _complete(prefix: str, known: list[str]) -> str:
    matches = [version for version in known if version.startswith(prefix)]
    if len(matches) != 1:
        raise Refused(
            "unknown_tower",
            expected="a prefix of exactly one tower version",
            came=f"{prefix!r}, which fits {len(matches)}",
            fix="`skewless towers list --json` prints them in full.",
        )
    return matches[0]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(releases, name="release")
    app.add_typer(towers, name="towers")
