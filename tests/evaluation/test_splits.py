import pytest

from datasets.weeks import week_start_ms
from evaluation.splits import TimeSplit


def test_the_held_out_weeks_follow_the_training_weeks() -> None:
    split = TimeSplit(1, 26)
    assert (split.first_held_out_week, split.last_held_out_week) == (27, 28)
    assert split.until_ms == week_start_ms(27)
    assert split.from_ms == week_start_ms(1)


@pytest.mark.parametrize("weeks", [(0, 5, 1), (6, 5, 1), (1, 52, 2), (1, 5, 0)])
def test_a_split_without_training_or_later_weeks_is_refused(weeks: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        TimeSplit(*weeks)
