"""Splits by time."""

from dataclasses import dataclass

from datasets.weeks import LAST_WEEK, week_start_ms


@dataclass(frozen=True)
class TimeSplit:
    """Train on some weeks, judge on the weeks after them.

    By time and not at random: a random split lets a model see Thursday's baskets of the households
    whose Wednesday it is asked about, and the promotions of the very weeks it is judged on. A served
    model only ever sees the past, so that is how it is judged.
    """

    first_week: int
    last_week: int
    held_out_weeks: int = 2

    def __post_init__(self) -> None:
        in_order = 1 <= self.first_week <= self.last_week < self.last_held_out_week <= LAST_WEEK
        if not in_order:
            raise ValueError(f"{self} does not fit into weeks 1 to {LAST_WEEK}")

    @property
    def first_held_out_week(self) -> int:
        """The week after the last training week."""
        return self.last_week + 1

    @property
    def last_held_out_week(self) -> int:
        """The last week that the model is judged on."""
        return self.last_week + self.held_out_weeks

    @property
    def from_ms(self) -> int:
        """Start of the first training week."""
        return week_start_ms(self.first_week)

    @property
    def until_ms(self) -> int:
        """End of the last training week."""
        return week_start_ms(self.last_week + 1)
