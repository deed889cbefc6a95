"""Which rows of a refresh act for the first time: what event to servable counts of the delta segment.

By Pin and revision, not by time: partitions and tiers are read at their own pace, so a row may come after
newer ones of others.
"""

from typing import Protocol

from index.delta_fold import Base
from index.row_files import Attributes


class Viewed(Protocol):
    """A release that a segment lies over."""

    @property
    def base(self) -> Base | None:
        """Its rows; None once they are let go of."""
        ...

    @property
    def version(self) -> str:
        """The tower version of its rows."""
        ...


class ShownRows:
    """What the last whole view showed: a release's rows, and those that its segment laid over them."""

    def __init__(self) -> None:
        self._last: tuple[Viewed, Base] | None = None

    def news(self, release: Viewed, rows: Attributes) -> Attributes:
        """Those of a segment's rows that the view before did not show in this revision or a newer one.

        None of the first view: what lies over the first release was not waited for since it came. None either
        of a release that comes when the rows of the one before are gone: nobody can tell what it showed.
        """
        before, self._last = self._last, (release, Base.of(rows, release.version))
        if before is None:
            return rows[:0]
        last, shown = before
        is_news = shown.outdated(rows)[1]
        if last is not release:
            held = last.base
            if held is None:
                return rows[:0]
            is_news &= held.outdated(rows)[1]
        return rows[is_news]
