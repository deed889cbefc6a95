import pytest
import typer

from entrypoints.durations import seconds, spoken


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
