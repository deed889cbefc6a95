"""The weeks of The Complete Journey: 53 of them, from Sunday 2017-01-01 to Monday 2018-01-01."""

from schemas.times import DAY_MS, HOUR_MS

WEEK_MS = 7 * DAY_MS

YEAR_START_MS = 1_483_228_800_000
"""2017-01-01T00:00Z: the day of the first purchase. The log's local times are taken as UTC."""

SECOND_WEEK_MS = YEAR_START_MS + 29 * HOUR_MS
"""Monday 2017-01-02T05:00Z: the log's `week` flips on Mondays between 04:59:58 and 05:00:49."""

FIRST_WEEK, LAST_WEEK = 1, 53


def week_start_ms(week: int) -> int:
    """First moment of a week, 1 to 54 (54 is the end of the year's last one). Raises ValueError otherwise.

    Week 1 is short: it starts with the year.

    >>> week_start_ms(3) - week_start_ms(2) == WEEK_MS
    True
    """
    if not FIRST_WEEK <= week <= LAST_WEEK + 1:
        raise ValueError(f"week {week} is not in {FIRST_WEEK} to {LAST_WEEK + 1}")
    return YEAR_START_MS if week == FIRST_WEEK else SECOND_WEEK_MS + (week - 2) * WEEK_MS
