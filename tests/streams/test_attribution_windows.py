import pytest

from streams.attribution_windows import KINDS, AttributionWindows, Conversion, credited

WINDOWS = AttributionWindows(visit_ms=10, click_ms=20, save_ms=30, purchase_ms=40, redemption_ms=50)


def at(time_ms: int, kind: str = "visit", value: int = 0) -> Conversion:
    return Conversion(time_ms, [str(one) for one in KINDS].index(kind), -value)


def test_each_kind_has_its_window_and_the_longest_is_when_a_row_is_due() -> None:
    assert [WINDOWS.of(kind) for kind in KINDS] == [40, 50, 30, 20, 10]
    assert WINDOWS.longest_ms == 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_includes_its_last_moment_and_no_later_one(kind: str) -> None:
    end_ms = 100 + getattr(WINDOWS, f"{kind}_ms")

    assert credited(100, [at(end_ms, kind)], WINDOWS) == at(end_ms, kind)
    assert credited(100, [at(end_ms + 1, kind)], WINDOWS) is None


def test_a_window_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer than nothing"):
        AttributionWindows(click_ms=0)


def test_of_conversions_at_one_moment_the_strongest_and_dearest_is_the_one() -> None:
    same = [at(105), at(105, "click"), at(105, "purchase", 1), at(105, "purchase", 9), at(105, "save")]

    assert credited(100, same, WINDOWS) == at(105, "purchase", 9)


def test_other_windows_are_told_apart() -> None:
    assert WINDOWS.text() != AttributionWindows().text()
