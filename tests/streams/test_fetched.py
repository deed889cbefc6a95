from typing import Any

import pytest

from schemas.errors import RetryableError
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED
from streams.fetched import Ascending, Fetched, fetched
from streams.sources import enrichment_sources
from tests.simulation.sim_log import SimMessage

SOURCES = enrichment_sources()
C, A = PIN_CHANGED.name, PIN_AGGREGATED.name


def _read(*places: tuple[str, int, int], silent_until: int = 0) -> Fetched:
    messages: list[Any] = [SimMessage(*place, 5, b"1", b"{}") for place in places]
    return fetched(SOURCES, messages, {(C, 3): silent_until} if silent_until else {})


def test_offsets_that_ascend_by_partition_are_followed() -> None:
    ascending = Ascending()
    ascending.follow(_read((C, 3, 100), (C, 3, 101), (A, 3, 7)))
    ascending.follow(_read((C, 3, 102), (C, 4, 0), (A, 3, 9)))
    ascending.follow(_read((C, 3, 103), (C, 3, 104), silent_until=104))


@pytest.mark.parametrize("offsets", [(0, 1, 2), (101, 0), (105, 100, 106)])
def test_a_partition_that_goes_back_is_asked_about_anew(offsets: tuple[int, ...]) -> None:
    ascending = Ascending()
    ascending.follow(_read((C, 3, 100), (A, 3, 0), (C, 2, 0)))
    with pytest.raises(RetryableError, match=r"pin.changed.v1\[3\] goes on at offset \d+, 101 was expected"):
        ascending.follow(_read(*((C, 3, offset) for offset in offsets)))


def test_headers_are_those_of_the_row_among_silent_messages_and_among_fresh_ones() -> None:
    messages: list[Any] = [
        SimMessage(C, 3, offset, 5, b"1", b"{}", [("id", b"%d" % offset)]) for offset in (7, 8, 9)
    ]
    one = fetched(SOURCES, messages, {(C, 3): 8})
    assert one.known_headers(C, 0) == [("id", b"7")]
    assert [one.headers(C, row) for row in (0, 1)] == [[("id", b"8")], [("id", b"9")]]
