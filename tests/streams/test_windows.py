from pathlib import Path

import pytest

from schemas.errors import DeadLetterReason
from schemas.times import DAY_MS
from schemas.topics import ENGAGEMENT_OBSERVED, VISIT_OBSERVED
from streams.windows import RESULTS

from .window_events import FIRST_DAY, Log, Told, settle, step_at, value_of

_LANES = [(VISIT_OBSERVED.name, 0), (VISIT_OBSERVED.name, 1)]


def _ms(day: int) -> int:
    return (FIRST_DAY + day) * DAY_MS


def test_today_is_not_counted_and_a_day_later_it_is(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)

    assert told.result(step.apply([log.add(1, 100), log.add(1, 100, visit=False)])) == []
    settle(step, told)
    assert told.rows == {}
    # Another Pin's event is what moves the clock: the first Pin is told by the passing of time alone.
    step.apply([log.add(3, 101)])
    settle(step, told)

    assert told.rows == {1: (101, ([1, 1, 1, 1], [1, 1, 1, 1]))}
    step.close()


def test_a_late_event_for_a_past_day_is_told_at_once(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(1, 100)])

    assert told.result(step.apply([log.add(1, 93), log.add(3, 10)])) == [1, 3]

    assert told.rows == {1: (100, ([0, 1, 1, 1], [0] * 4)), 3: (100, ([0, 0, 0, 1], [0] * 4))}
    step.close()


def test_counts_leave_each_window_on_the_day_they_should_and_only_then_is_the_pin_told(
    tmp_path: Path,
) -> None:
    log, step = Log(), step_at(tmp_path)
    step.apply([log.add(1, 0)])
    changes = {}
    for day in range(1, 100):
        told = Told()
        # Pin 0 lives in the other partition, which has its own sweeps.
        step.apply([log.add(1_000_001 + 2 * day, day)])
        settle(step, told)
        if 1 in told.rows:
            changes[day] = told.rows[1][1][0]
    assert changes == {1: [1, 1, 1, 1], 2: [0, 1, 1, 1], 8: [0, 0, 1, 1], 31: [0, 0, 0, 1], 91: [0, 0, 0, 0]}
    step.close()


def test_an_expired_pin_leaves_nothing_behind(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(1, 0)])
    step.apply([log.add(3, 100)])
    settle(step, told)

    # No window as of day 0 or as of day 100 holds it, and nobody ever heard of it.
    assert told.rows == {}
    assert step._store.counts([(1, 1)]) == [None]
    assert step._store.pins_of_day(1, FIRST_DAY, -1, 10) == []
    step.close()


def test_a_message_that_its_producer_sent_twice_counts_once(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    first = step.apply([log.add(1, 99, name="a"), log.add(1, 99, name="a"), log.add(1, 99, name="b")])
    second = step.apply([log.add(1, 99, name="a"), log.add(3, 100)])
    settle(step, told)

    assert (first.counts["duplicate"], second.counts["duplicate"]) == (1, 1)
    assert told.rows[1] == (100, ([2] * 4, [0] * 4))
    step.close()


def test_ids_are_forgotten_after_the_days_that_were_asked_for(tmp_path: Path) -> None:
    log, step = Log(), step_at(tmp_path, dedupe_days=2)
    results = [step.apply([log.add(1, 99, name="a", ingested_day=day)]) for day in (200, 202, 203, 205)]

    # The day that counts is the one on which the counted copy came in: 202 is within two days of 200, 203
    # is not and counts anew, and 205 is within two days of that.
    assert [one.counts["duplicate"] for one in results] == [0, 1, 0, 1]
    step.close()


def test_without_dedupe_days_every_message_counts(tmp_path: Path) -> None:
    log, step = Log(), step_at(tmp_path, dedupe_days=0)
    result = step.apply([log.add(1, 99, name="a"), log.add(1, 99, name="a")])
    assert (result.counts["counted"], result.counts["duplicate"]) == (2, 0)
    step.close()


def test_an_event_older_than_every_window_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(3, 100)])

    result = step.apply([log.add(1, 9), log.add(5, 10)])

    assert (result.counts["too_old"], result.counts["counted"]) == (1, 1)
    assert told.result(result) == [1, 5]
    assert told.rows[1] == (100, ([0] * 4, [0] * 4))
    assert step._store.counts([(1, 1)]) == [None]
    step.close()


def test_a_state_built_anew_takes_back_what_has_expired_meanwhile(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path / "first")
    told.result(step.apply([log.add(1, 5), log.add(3, 90)]))
    assert told.rows[1] == (90, ([0, 0, 0, 1], [0] * 4))
    step.close()

    step = step_at(tmp_path / "second")
    log.add(5, 96)
    told.result(step.apply(log.after({})))
    assert told.rows[1] == (96, ([0] * 4, [0] * 4))
    step.close()


def test_an_event_from_the_future_is_turned_down_whatever_our_clock_says(tmp_path: Path) -> None:
    log, step = Log(), step_at(tmp_path)
    # Taken in at the start of day 200: the start of day 201 is a day away, day 201 itself is further.
    result = step.apply([log.add(1, 200, ingested_day=200), log.add(3, 201, ingested_day=200)])

    assert [(one.event.offset, one.reason) for one in result.letters] == [(1, DeadLetterReason.FUTURE_EVENT)]
    assert result.counts["counted"] == 1
    step.close()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"1", b"{", DeadLetterReason.DECODE_ERROR),
        (b"1", None, DeadLetterReason.DECODE_ERROR),
        (b"1", b'{"pin_id":1}', DeadLetterReason.SCHEMA_INVALID),
        (b"2", value_of(1, 5, visit=True), DeadLetterReason.KEY_MISMATCH),
        (None, value_of(1, 5, visit=True), DeadLetterReason.KEY_MISMATCH),
    ],
)
def test_what_cannot_be_counted_is_turned_down_and_its_neighbours_count(
    tmp_path: Path, key: bytes | None, value: bytes | None, reason: DeadLetterReason
) -> None:
    log, step = Log(), step_at(tmp_path)
    bad = log.put(VISIT_OBSERVED.name, 1, key, value)
    result = step.apply([bad, log.add(1, 5)])
    assert [(one.event, one.reason) for one in result.letters] == [(bad, reason)]
    assert result.counts["counted"] == 1
    # Redelivered, it is turned down again: its letter may not have been sent.
    assert [one.event for one in step.apply([bad]).letters] == [bad]
    step.close()


def test_another_event_type_is_named_as_such(tmp_path: Path) -> None:
    log, step = Log(), step_at(tmp_path)
    event = log.put(ENGAGEMENT_OBSERVED.name, 1, b"1", b"{}")
    event.headers.append(("ce_type", b"engagement.observed.v9"))
    (letter,) = step.apply([event]).letters
    assert letter.reason is DeadLetterReason.UNKNOWN_VERSION
    step.close()


def test_what_a_redelivered_event_led_to_is_told_again_and_counted_once(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    events = [log.add(3, 100), log.add(1, 99)]
    first = step.apply(events)
    again = step.apply(events)

    assert [one.value for one in again.outputs] == [one.value for one in first.outputs]
    assert again.counts["redelivered"] == 2
    assert told.result(again) == [1]
    assert told.rows[1] == (100, ([1] * 4, [0] * 4))
    step.close()


def test_state_and_positions_survive_a_restart(tmp_path: Path) -> None:
    log, told = Log(), Told()
    step = step_at(tmp_path)
    step.apply([log.add(1, 99), log.add(2, 99, visit=False)])
    step.close()

    step = step_at(tmp_path)
    lanes = [(VISIT_OBSERVED.name, 1), (ENGAGEMENT_OBSERVED.name, 0), (VISIT_OBSERVED.name, 0)]
    assert step.positions(lanes) == {lanes[0]: 1, lanes[1]: 1}
    step.apply([log.add(3, 100)])
    settle(step, told)
    assert told.rows == {1: (100, ([1] * 4, [0] * 4)), 2: (100, ([0] * 4, [1] * 4))}
    step.close()


def test_by_the_walls_clock_the_day_is_the_ticks(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path, clock="wall")
    # Before the first tick no day is known: events count and nothing is told.
    assert told.result(step.apply([log.add(1, 99), log.add(1, 150)])) == []
    settle(step, told, _ms(100))
    assert told.rows == {1: (100, ([1] * 4, [0] * 4))}
    settle(step, told, _ms(101) - 1)
    assert told.count == 1
    settle(step, told, _ms(101))
    assert told.rows[1] == (101, ([0, 1, 1, 1], [0] * 4))
    # A clock that is set back changes nothing.
    settle(step, told, _ms(90))
    assert told.count == 2
    step.close()


def test_partitions_of_another_worker_are_not_told_of(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.owned(_LANES)
    step.apply([log.add(1, 99), log.add(2, 99)])
    step.owned(_LANES[:1])
    step.apply([log.add(4, 100)])
    settle(step, told)
    assert told.rows == {2: (100, ([1] * 4, [0] * 4))}
    # Back again: what time has done meanwhile is told now.
    step.owned(_LANES)
    settle(step, told)
    assert told.rows[1] == (100, ([1] * 4, [0] * 4))
    step.close()


def test_a_sweep_stops_for_a_partition_that_has_gone_to_another_worker(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path, sweep_pins=1)
    step.owned(_LANES)
    step.apply([log.add(1, 99), log.add(3, 99)])
    step.apply([log.add(2, 100), log.add(5, 100)])
    while not told.result(result := step.tick(0)):
        assert result.more
    step.owned(_LANES[:1])
    settle(step, told)
    # The piece that was under way had one of the partition's two Pins.
    assert told.count == 1
    assert set(told.rows) <= {1, 3}
    step.close()


def test_a_piece_that_was_held_back_is_told_when_its_partition_is_back(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.owned(_LANES)
    step.apply([log.add(1, 99)])
    step.apply([log.add(3, 100)])
    while not (result := step.tick(0)).outputs:
        assert result.more
    # The piece was not sent: its partition had gone. It comes back before anything else has happened.
    step.owned(_LANES[:1])
    step.owned(_LANES)
    settle(step, told)
    assert told.rows == {1: (100, ([1] * 4, [0] * 4))}
    step.close()


def test_what_catches_up_is_told_when_it_has_and_once(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.owned(_LANES, behind=_LANES[1:])
    # Events of the other kind are still to come: what is told of it now would lack them.
    assert not any(told.result(step.apply([log.add(1, day)])) for day in (1, 97, 99))
    assert settle(step, told) == 1
    assert told.count == 0

    step.owned(_LANES)
    settle(step, told)
    assert told.rows == {1: (99, ([0, 1, 1, 1], [0] * 4))}
    assert told.count == 1
    step.close()


def test_pins_of_what_was_caught_up_are_told_also_when_the_day_asks_for_nothing(tmp_path: Path) -> None:
    """Whoever had the partition may have been at an earlier day, and have told them as of that."""
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.owned(_LANES)
    step.apply([log.add(1, 50), log.add(2, 100)])
    settle(step, told)
    step.owned(_LANES[:1])
    step.owned(_LANES, behind=_LANES[1:])
    # Counted, too old to be counted, and of today.
    step.apply([log.add(1, 97), log.add(3, 9), log.add(5, 100)])
    step.close()

    step, told = step_at(tmp_path), Told()
    step.owned(_LANES)
    settle(step, told)
    assert told.rows == {1: (100, ([0, 1, 1, 2], [0] * 4)), 3: (100, ([0] * 4, [0] * 4))}
    assert told.count == 2
    assert not step.tick(0).more
    step.close()


def test_a_state_that_was_away_tells_what_looks_to_it_as_if_nothing_had_changed(tmp_path: Path) -> None:
    """Windows as of the day it left and of the day it is back are the same; in between they were not."""
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.owned(_LANES)
    step.apply([log.add(1, 50)])
    settle(step, told)
    step.owned(_LANES[:1])
    step.apply([log.add(2, 150)])
    settle(step, told)
    assert told.rows == {}
    # Whoever had the partition meanwhile told the visit and need not have told its end.
    step.owned(_LANES)
    settle(step, told)
    assert told.rows == {1: (150, ([0] * 4, [0] * 4))}
    step.close()


def test_dates_of_1970_are_dates(tmp_path: Path) -> None:
    """A producer that sends seconds for milliseconds is wrong, and no reason to end at every start."""
    log, told = Log(), Told()
    step = step_at(tmp_path)
    step.apply([log.add(1, 20 - FIRST_DAY), log.add(2, 20 - FIRST_DAY)])
    step.apply([log.add(3, 40 - FIRST_DAY), log.add(4, 50 - FIRST_DAY)])
    settle(step, told)
    assert told.rows[1] == (50 - FIRST_DAY, ([0, 0, 1, 1], [0] * 4))
    step.apply([log.add(5, 100), log.add(7, 99)])
    step.close()

    step = step_at(tmp_path)
    settle(step, told)
    assert told.rows == {
        1: (100, ([0] * 4, [0] * 4)),
        2: (100, ([0] * 4, [0] * 4)),
        3: (100, ([0] * 4, [0] * 4)),
        7: (100, ([1] * 4, [0] * 4)),
    }
    step.close()


def test_a_pin_with_counts_on_many_days_is_told_once_when_the_day_changes(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(1, day) for day in (10, 70, 94, 99, 100)])
    step.apply([log.add(3, 101)])
    settle(step, told)
    assert told.rows[1] == (101, ([1, 3, 3, 4], [0] * 4))
    assert told.count == 1
    step.close()


def test_a_pin_all_of_whose_counts_expire_at_once_is_told_once_too(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(1, 10), log.add(1, 12)])
    step.apply([log.add(3, 99)])
    step.apply([log.add(3, 200)])
    settle(step, told)
    assert told.rows[1] == (200, ([0] * 4, [0] * 4))
    assert step._store.counts([(1, 1)]) == [None]
    step.close()


def test_a_pin_some_of_whose_counts_expire_is_told_once_too(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(1, 10)])
    step.apply([log.add(1, 99)])
    step.apply([log.add(3, 101)])
    settle(step, told)
    assert told.rows[1] == (101, ([0, 1, 1, 1], [0] * 4))
    assert told.count == 2
    step.close()


def test_a_new_event_leaves_the_oldest_day_of_the_longest_window_in_place(tmp_path: Path) -> None:
    log, told, step = Log(), Told(), step_at(tmp_path)
    step.apply([log.add(3, 100), log.add(1, 10)])
    told.result(step.apply([log.add(1, 99)]))
    told.result(step.apply([log.add(1, 98)]))
    assert told.rows[1] == (100, ([1, 2, 2, 3], [0] * 4))
    step.close()


def test_a_change_of_day_is_done_in_bounded_pieces_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    log, told = Log(), Told()
    step = step_at(tmp_path, sweep_pins=10)
    step.owned(_LANES)
    step.apply([log.add(2 * number + 1, 99) for number in range(100)])
    step.apply([log.add(1_000_001, 100)])
    pieces = []
    for _ in range(4):
        pieces.append(told.result(step.tick(0)))
    assert [len(piece) for piece in pieces] == [10, 10, 10, 10]
    step.close()  # As a kill would: whether the fourth piece was sent is not known.

    step = step_at(tmp_path, sweep_pins=10)
    step.owned(_LANES)
    rest = Told()
    ticks = settle(step, rest)
    # The piece in doubt is told again, the three before it are not: 70 Pins in 7 pieces.
    assert sorted(rest.rows) == sorted(2 * number + 1 for number in range(30, 100))
    assert ticks == 9
    # Nothing is left over for the next tick.
    assert not step.tick(0).more
    step.close()


def test_results_are_the_fixed_names_that_metrics_have(tmp_path: Path) -> None:
    log, step = Log(), step_at(tmp_path)
    assert set(step.apply([log.add(1, 1), log.put(VISIT_OBSERVED.name, 0, b"1", b"")]).counts) <= set(RESULTS)
    step.close()
