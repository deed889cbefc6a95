"""When a share of skew becomes an alert and when it ends: thresholds, hysteresis, durations. No I/O.

An alert is raised when the share has been above the threshold for `raise_after_ms`, and cleared when it
has been at or below `clear_share` for `clear_after_ms`. Both lengths are asked of event time and of the
wall clock: a backlog that is read in a second has no news of a release that comes behind it. Silence
clears nothing: with fewer than `least` counted in the window, an alert stays what it is. Only the silence
of a tier that is gone is the end of its alerts.
"""

from dataclasses import dataclass, field

from schemas.skew import SkewKind


@dataclass(frozen=True)
class AlertRule:
    """When one kind of skew is an alert. Shares are of what was counted in the window."""

    threshold: float
    clear_share: float
    raise_after_ms: int
    clear_after_ms: int
    least: int


def default_rules() -> dict[SkewKind, AlertRule]:
    """Any mixed answer is one too many, at once; the others may be a moment's."""
    return {
        "mixed_responses": AlertRule(0.0, 0.0, 0, 60_000, 1),
        "stream_not_aligned": AlertRule(0.05, 0.01, 30_000, 60_000, 10),
        "query_not_released": AlertRule(0.01, 0.002, 30_000, 60_000, 10),
    }


@dataclass(frozen=True)
class SkewRules:
    """Window, grace after a release's move, tier of what names none, and the rule of each kind."""

    window_ms: int = 600_000
    grace_ms: int = 120_000
    default_tier: str = "realtime"
    alerts: dict[SkewKind, AlertRule] = field(default_factory=default_rules)


@dataclass(frozen=True)
class AlertState:
    """`since_ms`: event time at which this state began. `turning_ms`: when what would end it began."""

    raised: bool = False
    since_ms: int = 0
    turning_ms: int | None = None
    turning_wall_ms: int | None = None
    """Wall clock of the same; None in a new process, which waits anew."""


def judge(
    state: AlertState,
    rule: AlertRule,
    share: float,
    counted: int,
    now: tuple[int, int],
    *,
    gone: bool = False,
) -> AlertState:
    """The next state. `now`: event time and wall clock; `gone`: releases have no such tier any more.

    It changed when `raised` differs.
    """
    event_ms, wall_ms = now
    turns = share <= rule.clear_share if state.raised else share > rule.threshold
    enough = counted >= rule.least or (gone and state.raised)
    if not enough or not turns:
        return AlertState(state.raised, state.since_ms)
    began = event_ms if state.turning_ms is None else state.turning_ms
    began_wall = wall_ms if state.turning_wall_ms is None else state.turning_wall_ms
    lasts_ms = rule.clear_after_ms if state.raised else rule.raise_after_ms
    if min(event_ms - began, wall_ms - began_wall) >= lasts_ms:
        return AlertState(not state.raised, began)
    return AlertState(state.raised, state.since_ms, began, began_wall)
