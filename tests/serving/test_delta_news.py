"""A row is news when the view before showed its Pin in no such revision, whatever the clock says."""

from dataclasses import dataclass

import numpy as np

from index.delta_fold import Base
from serving.delta_news import ShownRows

from .fakes import Records, pins, version

TOWER = version("tower")


@dataclass(eq=False)
class Release:
    """A release of these rows; None once it is closed."""

    base: Base | None
    version: str = TOWER


def rows(*revisions: int) -> Records:
    """Pin 100 in the first revision, Pin 101 in the second, and so on."""
    return pins(len(revisions), changed_offset=np.array(revisions))


def news(shown: ShownRows, release: Release, segment: Records) -> list[int]:
    found: list[int] = shown.news(release, segment)["pin_id"].tolist()
    return found


def test_a_row_is_news_once_and_again_in_its_next_revision() -> None:
    shown, release = ShownRows(), Release(Base.of(rows(0, 0), TOWER))
    assert news(shown, release, rows(1)) == []
    assert news(shown, release, rows(1, 1, 1)) == [101, 102]
    assert news(shown, release, rows(1, 2, 1)) == [101]
    assert news(shown, release, rows(1, 2, 1)) == []


def test_what_the_release_before_held_or_showed_is_no_news_of_the_next() -> None:
    shown, first = ShownRows(), Release(Base.of(rows(5, 0, 0), TOWER))
    news(shown, first, rows(6)[:1])
    # Pin 100 was shown in revision 6, Pin 101 held in 0; Pin 102 is newer, Pin 103 was not there.
    assert news(shown, Release(Base.of(rows(4), TOWER)), rows(6, 0, 1, 1)) == [102, 103]


def test_of_a_release_whose_rows_are_gone_nobody_can_tell_what_it_showed() -> None:
    shown, first = ShownRows(), Release(Base.of(rows(0), TOWER))
    news(shown, first, rows(1))
    first.base = None
    second = Release(Base.of(rows(0), TOWER))
    assert news(shown, second, rows(9, 9)) == []
    assert news(shown, second, rows(9, 10)) == [101]
