import itertools

from streams.skew_alerts import AlertRule, AlertState, judge

RULE = AlertRule(threshold=0.05, clear_share=0.01, raise_after_ms=30, clear_after_ms=60, least=10)


def states(shares: list[float], *, counted: int = 100, step_ms: int = 10) -> list[bool]:
    """Whether the alert is raised after each share, `step_ms` apart on both clocks."""
    state, raised = AlertState(), []
    for number, share in enumerate(shares):
        state = judge(state, RULE, share, counted, (number * step_ms, 1_000 + number * step_ms))
        raised.append(state.raised)
    return raised


def test_it_is_raised_when_the_share_has_been_high_for_long_enough() -> None:
    assert states([0.06, 0.06, 0.06, 0.06, 0.06]) == [False, False, False, True, True]


def test_a_share_at_the_threshold_is_no_alert() -> None:
    assert not any(states([0.05] * 20))


def test_a_dip_makes_it_wait_anew() -> None:
    assert states([0.06, 0.06, 0.06, 0.04, 0.06, 0.06, 0.06, 0.06]).index(True) == 7


def test_it_is_cleared_when_the_share_has_been_low_for_long_enough() -> None:
    shares = [0.06] * 4 + [0.01] * 7

    assert states(shares) == [False] * 3 + [True] * 7 + [False]


def test_between_the_two_bounds_it_stays_what_it_is() -> None:
    assert not any(states([0.03] * 50))
    assert all(states([0.06] * 4 + [0.03] * 50)[3:])


def test_a_share_that_swings_around_the_threshold_raises_once() -> None:
    raised = states([0.06] * 4 + [0.04, 0.06] * 100)

    assert sum(before != after for before, after in itertools.pairwise(raised)) == 1


def test_too_few_to_judge_change_nothing() -> None:
    assert not any(states([1.0] * 20, counted=9))
    raised = AlertState(raised=True, since_ms=5)
    assert judge(raised, RULE, 0.0, 0, (10_000, 10_000)) == raised


def test_both_clocks_have_to_pass() -> None:
    first = judge(AlertState(), RULE, 1.0, 100, (0, 1_000))
    backlog = judge(first, RULE, 1.0, 100, (1_000_000, 1_029))
    silence = judge(first, RULE, 1.0, 100, (29, 9_000))
    both = judge(first, RULE, 1.0, 100, (30, 1_030))

    assert [backlog.raised, silence.raised, both.raised] == [False, False, True]


def test_a_state_begins_when_what_led_to_it_began() -> None:
    state = AlertState()
    for at_ms in (100, 110, 120, 130):
        state = judge(state, RULE, 1.0, 100, (at_ms, at_ms))

    assert state == AlertState(raised=True, since_ms=100)


def test_a_new_process_waits_anew_by_its_own_clock() -> None:
    restored = AlertState(turning_ms=0)

    assert judge(restored, RULE, 1.0, 100, (50, 9_000)) == AlertState(turning_ms=0, turning_wall_ms=9_000)


def test_the_silence_of_a_tier_that_is_gone_clears_its_alert_and_raises_none() -> None:
    state = AlertState(raised=True, since_ms=5)
    for at_ms in (100, 159, 160):
        state = judge(state, RULE, 0.0, 0, (at_ms, at_ms), gone=True)
        assert state.raised == (at_ms < 160)
    few = judge(AlertState(turning_ms=0, turning_wall_ms=0), RULE, 1.0, 9, (500, 500), gone=True)
    assert not few.raised
