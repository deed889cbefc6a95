from datetime import UTC, datetime

import pytest

from datasets.weeks import week_start_ms


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_the_first_week_is_the_first_of_january_and_the_second_starts_on_monday_at_five() -> None:
    assert week_start_ms(1) == at("2017-01-01T00:00")
    assert week_start_ms(2) == at("2017-01-02T05:00")
    assert week_start_ms(53) == at("2017-12-25T05:00")
    assert week_start_ms(54) == at("2018-01-01T05:00")


@pytest.mark.parametrize("week", [0, 55])
def test_a_week_outside_the_year_is_refused(week: int) -> None:
    with pytest.raises(ValueError, match=f"week {week}"):
        week_start_ms(week)
