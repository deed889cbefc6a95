"""`enforce` and `tolerate` at the door: which releases a server takes, by what their rows are tagged with."""

from collections.abc import Mapping

from schemas.errors import Refused
from schemas.manifests import ReleaseManifest
from schemas.tiers import VersionPolicy

WARNING = (
    "VERSION POLICY TOLERATE: this server takes releases of mixed tower versions. Scores of mixed pairs mean "
    "nothing; every answer says how many there are. For measurements only."
)


def check_policy(manifest: ReleaseManifest, mix: Mapping[str, int], policy: VersionPolicy) -> None:
    """Refuse what the policy does not allow, with the histogram. `mix` is counted from the rows' own tags.

    `enforce` takes rows of the query tower's version and no others, whatever the manifest claims;
    `tolerate` takes any mix. Raises Refused (`mixed_versions`).
    """
    if policy == "tolerate":
        return
    mixed = {version: rows for version, rows in mix.items() if rows and version != manifest.tower_version}
    if mixed or manifest.version_policy != "enforce":
        raise Refused(
            "mixed_versions",
            expected=f"rows of {manifest.tower_version[:12]} only, in a release built with `enforce`",
            came=f"{histogram(mix)} in release {manifest.release_id}, built with `{manifest.version_policy}`",
            fix="Publish a release of one version. SKEWLESS_VERSION_POLICY=tolerate serves this one for "
            "measurements, and labels every answer.",
        )


def histogram(mix: Mapping[str, int]) -> str:
    """Rows by tower version in words, the most frequent first."""
    ordered = sorted(mix.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{rows} rows of {version[:12]}" for version, rows in ordered) or "no rows"
