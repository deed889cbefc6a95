import pytest
import typer

from entrypoints.durations import moment_ms, seconds, spoken


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90), ("15m", 900), ("1.5h", 5_400), (" 7d ", 604_800)]
)
def test_durations_are_read_with_their_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "7w", "-1s", "1h30m", "1e9d"])
def test_what_is_no_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90s, 15m, 36h or 7d"):
        seconds(text)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0 s"), (1_500, "1.5 s"), (60_000, "1 min"), (3_600_000, "1 h"), (864 * 10**6, "10 d")],
)
def test_ages_are_told_in_their_largest_unit(milliseconds: int, text: str) -> None:
    assert spoken(milliseconds) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15m", 1_700_000_000_000 - 900_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("2023-11-14 23:13:20.500+01:00", 1_700_000_000_500),
    ],
)
def test_a_moment_is_so_long_ago_or_a_time_in_utc_or_in_its_own_zone(text: str, expected: int) -> None:
    assert moment_ms(text, 1_700_000_000_000) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "15", "2023-13-01T00:00:00Z"])
def test_what_is_neither_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"90s, 15m, 36h or 7d; or a time, such as 2026-11-21T"):
        moment_ms(text, 0)
