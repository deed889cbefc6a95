"""How many tower versions lie between a query and a Pin embedding: lag, as an ordinal.

Versions are content hashes and have no order of their own; theirs is the order in which they first went
live, with the candidates of LIVE after those.
"""

from collections.abc import Iterable, Mapping, Sequence

from schemas.logs import ReleasePublished

MOST_COUNTED = 3
UNKNOWN = "unknown"
LAGS = (*map(str, range(MOST_COUNTED)), f"{MOST_COUNTED}+", UNKNOWN)
"""Every value that a lag may have as a label."""


def version_order(moves: Iterable[ReleasePublished], live: Iterable[str]) -> list[str]:
    """Tower versions, oldest first: by their first publication, then what LIVE names besides."""
    return list(dict.fromkeys([*(move.tower_version for move in moves), *live]))


def lag_label(version: str, query: str, order: Sequence[str]) -> str:
    """Versions between a Pin embedding's and the query's: `0`, `1`, `2`, `3+`.

    `unknown` when one of two different versions never went live and is in no LIVE: then nobody can say.
    """
    if version == query:
        return "0"
    if version not in order or query not in order:
        return UNKNOWN
    apart = abs(order.index(query) - order.index(version))
    return str(apart) if apart < MOST_COUNTED else f"{MOST_COUNTED}+"


def rows_by_lag(mix: Mapping[str, int], query: str, order: Sequence[str]) -> dict[str, int]:
    """Rows by lag, every lag named, from rows by version."""
    rows = dict.fromkeys(LAGS, 0)
    for version, count in mix.items():
        rows[lag_label(version, query, order)] += count
    return rows
