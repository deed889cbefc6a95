import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from schemas.codec import decode
from schemas.errors import DeadLetterReason, Refused
from schemas.events import EngagementObserved, VisitObserved
from schemas.impressions import ImpressionAttributed, ImpressionServed
from streams.attribution import AttributionRules, AttributionStep
from streams.attribution_telemetry import AttributionTelemetry
from streams.attribution_windows import AttributionWindows
from streams.steps import Output, RawEvent
from tests.streams.attribution_oracle import Told, attributed
from tests.streams.raw_events import bought, raw, served, visit

WINDOWS = AttributionWindows(visit_ms=10, click_ms=10, save_ms=10, purchase_ms=50, redemption_ms=50)
FAR = 10_000


def rules(**changes: Any) -> AttributionRules:
    return replace(AttributionRules(WINDOWS, lateness_ms=0, idle_ms=0), **changes)


def new_step(path: Path, metrics: CollectorRegistry | None = None, **changes: Any) -> AttributionStep:
    return AttributionStep(path, rules(**changes), AttributionTelemetry(metrics or CollectorRegistry()))


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def step(tmp_path: Path, metrics: CollectorRegistry) -> Iterator[AttributionStep]:
    made = new_step(tmp_path, metrics)
    yield made
    made.close()


class Topics:
    """Offsets as the broker gives them out."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def __call__(self, *messages: BaseModel, ingested_at_ms: int = 0) -> list[RawEvent]:
        made = []
        for message in messages:
            topic = str(getattr(message, "type_name"))  # noqa: B009
            self._next[topic] = self._next.get(topic, -1) + 1
            made.append(raw(message, self._next[topic], ingested_at_ms=ingested_at_ms))
        return made

    def close_everything(self) -> list[RawEvent]:
        """One event on every topic, after every window."""
        return self(served(FAR, request="end", pin=99), visit(FAR, pin=99), bought(FAR, pin=99))


def rows(outputs: list[Output]) -> list[ImpressionAttributed]:
    return [decode(ImpressionAttributed, one.value) for one in outputs]


def told(row: ImpressionAttributed) -> Told:
    if row.conversion_kind is None or row.converted_at_ms is None:
        return None
    return row.conversion_kind, row.converted_at_ms, row.value_micros


def attribute(step: AttributionStep, *messages: BaseModel) -> dict[str, Told]:
    """Request → credited conversion, after all windows are over."""
    topics = Topics()
    outputs = step.apply(topics(*messages)).outputs
    outputs += step.apply(topics.close_everything()).outputs
    return {row.request_id: told(row) for row in rows(outputs)}


def test_the_first_conversion_of_the_window_is_the_one(step: AttributionStep) -> None:
    messages = (served(100), bought(130), visit(108), visit(104))

    assert attribute(step, *messages) == {"r1": ("visit", 104, 0)}


def test_a_window_has_its_first_and_its_last_moment(step: AttributionStep) -> None:
    messages = (
        served(100, request="at once", pin=1),
        bought(100, pin=1),
        served(100, request="last moment", pin=2),
        bought(150, pin=2),
        served(100, request="over", pin=3),
        bought(151, pin=3),
        served(100, request="before", pin=4),
        bought(99, pin=4),
    )

    assert attribute(step, *messages) == {
        "at once": ("purchase", 100, 3_000_000),
        "last moment": ("purchase", 150, 3_000_000),
        "over": None,
        "before": None,
    }


def test_a_visit_is_over_sooner_than_a_purchase(step: AttributionStep) -> None:
    assert attribute(step, served(100), visit(111), bought(120)) == {"r1": ("purchase", 120, 3_000_000)}


def test_a_conversion_goes_to_the_latest_impression_before_it_and_to_no_other(step: AttributionStep) -> None:
    messages = (served(100, request="first"), served(110, request="second"), bought(120), visit(105))

    assert attribute(step, *messages) == {
        "first": ("visit", 105, 0),
        "second": ("purchase", 120, 3_000_000),
    }


def test_a_conversion_after_every_window_goes_to_nobody(step: AttributionStep) -> None:
    messages = (served(100, request="first"), served(103, request="second"), visit(114))

    assert attribute(step, *messages) == {"first": None, "second": None}


def test_other_users_other_pins_and_unknown_users_are_credited_with_nothing(step: AttributionStep) -> None:
    messages = (
        served(100, request="known"),
        served(100, request="unknown", pin=2, user=None),
        bought(110, user=2),
        bought(110, pin=3),
        visit(105, pin=2, user=None),
        bought(110, pin=2),
    )

    assert attribute(step, *messages) == {"known": None, "unknown": None}


def test_a_conversion_that_comes_before_its_impression_is_kept_for_it(step: AttributionStep) -> None:
    assert attribute(step, bought(120), served(100)) == {"r1": ("purchase", 120, 3_000_000)}


def test_a_request_sent_again_within_the_window_is_one_impression(step: AttributionStep) -> None:
    messages = (served(100), served(105), bought(120))

    topics = Topics()
    outputs = step.apply(topics(*messages)).outputs + step.apply(topics.close_everything()).outputs

    assert [(row.served_at_ms, told(row)) for row in rows(outputs)] == [(100, ("purchase", 120, 3_000_000))]


@pytest.mark.parametrize("user", [1, None])
@pytest.mark.parametrize("most_closed", [1, 100])
def test_repeats_count_from_the_first_impression_of_their_request(
    tmp_path: Path, user: int | None, most_closed: int
) -> None:
    step, topics = new_step(tmp_path, most_closed=most_closed), Topics()
    shown = [(100, "a"), (140, "a"), (150, "b"), (190, "a"), (200, "a"), (201, "a1"), (240, "a")]
    result = step.apply(topics(*(served(at_ms, request=name, user=user) for at_ms, name in shown)))
    result = step.apply(topics(visit(195), bought(155), bought(141), bought(200)))
    outputs, result = result.outputs, step.apply(topics.close_everything())
    outputs += result.outputs
    while result.more:
        result = step.tick(1)
        outputs += result.outputs
    step.close()

    credit: dict[int, Told] = {
        100: ("purchase", 141, 3_000_000),
        150: ("purchase", 155, 3_000_000),
        190: ("visit", 195, 0),
        201: None,
    }
    wanted = {at_ms: told if user else None for at_ms, told in credit.items()}
    assert {row.served_at_ms: told(row) for row in rows(outputs)} == wanted
    assert [row.request_id for row in rows(outputs)] == ["a", "b", "a", "a1"]


def entries_read(path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Entries of the state that are looked at to close `count` impressions of one user and one Pin."""
    step, topics = new_step(path), Topics()
    step.apply(topics(*(served(100 + n // 4, request=str(n)) for n in range(count))))
    step.apply(topics(*(bought(100 + n // 2) for n in range(count))))
    scan, read = step._store.scan, 0

    def counted(*arguments: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        nonlocal read
        for one in scan(*arguments):  # type: ignore[arg-type]
            read += 1
            yield one

    monkeypatch.setattr(step._store, "scan", counted)
    outputs = step.apply(topics.close_everything()).outputs
    step.close()
    assert len(outputs) == count
    return read


def test_what_is_read_grows_with_the_impressions_of_a_user_and_not_with_their_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_hundred = entries_read(tmp_path / "100", 100, monkeypatch)
    four_hundred = entries_read(tmp_path / "400", 400, monkeypatch)

    assert four_hundred <= 4 * one_hundred + 10


def test_a_row_carries_its_impression_its_window_and_its_key(step: AttributionStep) -> None:
    topics = Topics()
    step.apply(topics(served(100, position=4), bought(130)))

    (output,) = step.apply(topics.close_everything()).outputs

    (row,) = rows([output])
    assert ImpressionServed.model_validate(row.model_dump()) == served(100, position=4)
    assert (row.window_ends_at_ms, row.converted) == (150, True)
    assert (output.topic, output.key, output.owner) == ("impression.attributed.v1", b"r1:1", 0)


def test_a_window_is_open_until_every_topic_has_passed_it(step: AttributionStep) -> None:
    topics = Topics()
    written = [step.apply(topics(served(100))).outputs]
    written += [step.apply(topics(served(FAR, request="other", pin=2))).outputs]
    written += [step.apply(topics(visit(FAR))).outputs]
    written += [step.apply(topics(bought(150))).outputs]
    written += [step.apply(topics(bought(FAR))).outputs]

    assert [len(one) for one in written] == [0, 0, 0, 0, 1]


def test_disorder_inside_a_topic_within_the_allowance_loses_nothing(tmp_path: Path) -> None:
    step = new_step(tmp_path, lateness_ms=1_000)
    topics = Topics()
    step.apply(topics(served(100), served(1_100, request="r2", pin=2), visit(1_100), bought(1_100)))
    step.apply(topics(bought(101)))

    done = rows(step.apply(topics.close_everything()).outputs)
    step.close()

    assert {row.request_id: told(row) for row in done}["r1"] == ("purchase", 101, 3_000_000)


def test_what_comes_after_its_window_is_counted_and_changes_nothing(step: AttributionStep) -> None:
    topics = Topics()
    step.apply(topics(served(100), *(visit(FAR), bought(FAR), served(FAR, request="end", pin=99))))

    late = step.apply(topics(bought(120), served(110, request="late"), served(100)))
    after = step.apply(topics(*(visit(2 * FAR), bought(2 * FAR), served(2 * FAR, request="end2", pin=98))))

    assert late.outputs == []
    assert [row.request_id for row in rows(after.outputs)] == ["end"]
    assert late.counts == {"late_conversion": 1, "late_impression": 2}


def test_an_idle_topic_is_passed_over_after_the_allowance(tmp_path: Path) -> None:
    step = new_step(tmp_path, idle_ms=300_000)
    topics = Topics()
    step.tick(1_000_000)
    step.apply(topics(served(100)))
    for now_ms in range(1_001_000, 1_300_000, 1_000):
        assert step.apply(topics(served(FAR + now_ms, request=str(now_ms), pin=now_ms))).outputs == []
        assert step.tick(now_ms).outputs == []

    done = step.tick(1_300_000).outputs
    step.close()

    assert [row.request_id for row in rows(done)][:1] == ["r1"]


def test_when_all_topics_are_silent_time_goes_on_with_the_wall_clock(tmp_path: Path) -> None:
    step = new_step(tmp_path, idle_ms=5_000)
    step.tick(1_000_000)
    step.apply(Topics()(served(100)))

    written = {now_ms: len(step.tick(now_ms).outputs) for now_ms in range(1_001_000, 1_006_000, 10)}
    step.close()

    # Silent from 1,005,000 on; the window of 50 ms is over when 51 ms of wall clock have passed.
    assert [now_ms for now_ms, count in written.items() if count] == [1_005_060]


def test_a_pause_of_the_process_is_no_silence_of_the_topics(tmp_path: Path) -> None:
    step = new_step(tmp_path, idle_ms=5_000)
    step.tick(1_000_000)
    step.apply(Topics()(served(100)))

    assert step.tick(9_000_000).outputs == []
    step.close()


def test_windows_close_although_no_process_lives_as_long_as_one(tmp_path: Path) -> None:
    closed, now_ms = [], 1_000_000
    for life in range(4):
        step = new_step(tmp_path, idle_ms=5_000)
        step.tick(now_ms)
        if life == 0:
            step.apply(Topics()(served(100)))
        # 20 ms of silence that counts: the window of 50 ms is over in the third life.
        closed.append(len(step.tick(now_ms + 5_020).outputs))
        step.close()
        now_ms += 60_000

    assert closed[:3] == [0, 0, 1]


def _lanes(number: int) -> list[tuple[str, int]]:
    return [(topic, number) for topic in AttributionStep.topics]


def test_time_passes_only_in_partitions_that_are_owned(tmp_path: Path) -> None:
    step = new_step(tmp_path, idle_ms=5_000)
    step.tick(1_000_000)
    step.apply(Topics()(served(100)))
    step.owned(_lanes(7))

    away = [step.tick(now_ms).outputs for now_ms in range(1_001_000, 1_060_000, 1_000)]
    step.owned(_lanes(0))
    back = [step.tick(now_ms).outputs for now_ms in range(1_060_000, 1_067_000, 1_000)]
    step.close()

    assert not any(away)
    # Silent from 1,065,000 on: the time away was no silence.
    assert [len(one) for one in back] == [0, 0, 0, 0, 0, 0, 1]


def test_rows_that_may_not_have_been_sent_are_sent_again_by_the_next_process(tmp_path: Path) -> None:
    topics = Topics()
    step = new_step(tmp_path)
    step.apply(topics(served(100)))
    lost = step.apply(topics.close_everything()).outputs
    step.close()

    again = new_step(tmp_path)
    first, second = again.tick(1).outputs, again.tick(2).outputs
    again.close()
    third = new_step(tmp_path)
    then = third.tick(3).outputs
    third.close()

    assert len(lost) == 1
    assert (first, second, then) == (lost, [], [])


def test_a_state_made_with_other_windows_is_refused(tmp_path: Path) -> None:
    new_step(tmp_path).close()

    with pytest.raises(Refused, match="step_layout"):
        new_step(tmp_path, windows=AttributionWindows())


def test_closed_impressions_and_old_conversions_leave_the_state(step: AttributionStep) -> None:
    topics = Topics()
    step.apply(topics(*(served(100 + n, request=str(n), pin=n) for n in range(50))))
    step.apply(topics(*(bought(110 + n, pin=n) for n in range(50))))
    kept = len(list(step._store.scan(b"i"))) + len(list(step._store.scan(b"c")))

    step.apply(topics.close_everything())

    assert kept == 100
    assert [key[:9] for prefix in (b"i", b"r", b"c") for key, _ in step._store.scan(prefix)] == [
        b"i" + (99).to_bytes(8, "big"),
        b"r" + (99).to_bytes(8, "big"),
        b"c" + (99).to_bytes(8, "big"),
        b"c" + (99).to_bytes(8, "big"),
    ]


def test_a_jump_in_time_is_worked_off_in_pieces(tmp_path: Path) -> None:
    step = new_step(tmp_path, most_closed=30)
    topics = Topics()
    step.apply(topics(*(served(100 + n, request=str(n), pin=n) for n in range(50))))
    results = [step.apply(topics.close_everything()), step.tick(1), step.tick(2)]
    step.close()

    assert [(len(one.outputs), one.more) for one in results] == [(30, True), (20, False), (0, False)]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (RawEvent("impression.served.v1", 0, 0, 0, b"1", b"{", []), DeadLetterReason.DECODE_ERROR),
        (RawEvent("impression.served.v1", 0, 0, 0, b"1", b"{}", []), DeadLetterReason.SCHEMA_INVALID),
        (RawEvent("impression.served.v1", 0, 0, 0, b"1", None, []), DeadLetterReason.DECODE_ERROR),
        (raw(served(5), 0, key=b"2"), DeadLetterReason.KEY_MISMATCH),
        (raw(served(90_000_000), 0, ingested_at_ms=1_000), DeadLetterReason.FUTURE_EVENT),
    ],
)
def test_a_bad_impression_is_turned_down_each_time_it_comes_and_is_passed(
    step: AttributionStep, event: RawEvent, reason: DeadLetterReason
) -> None:
    results = [step.apply([event]), step.apply([event])]

    assert [[letter.reason for letter in one.letters] for one in results] == [[reason], [reason]]
    assert step.positions([(event.topic, 0), (event.topic, 1)]) == {(event.topic, 0): 1}


@pytest.mark.parametrize("name", [b"dot", b"pctr"])
def test_a_score_that_is_no_number_is_turned_down_when_it_comes_and_not_when_it_is_due(
    step: AttributionStep, name: bytes
) -> None:
    event = raw(served(5), 0)
    value = re.sub(b'"%s":[0-9.]+' % name, b'"%s":NaN' % name, event.value or b"")

    result = step.apply([replace(event, value=value)])

    assert [letter.reason for letter in result.letters] == [DeadLetterReason.SCHEMA_INVALID]


def test_an_impression_that_came_framed_has_its_row(step: AttributionStep) -> None:
    topics = Topics()
    (event,) = topics(served(100))
    step.apply([replace(event, value=b"\0\0\0\0\7avro", read=event.value)])

    done = rows(step.apply(topics.close_everything()).outputs)

    assert [(row.request_id, row.dot) for row in done] == [("r1", 0.25)]


@pytest.mark.parametrize(
    "event",
    [
        RawEvent("visit.observed.v1", 0, 0, 0, b"1", b"{", []),
        raw(visit(5), 0, key=b"2"),
        raw(bought(90_000_000), 0, ingested_at_ms=1_000),
    ],
)
def test_a_bad_visit_is_counted_and_its_letter_left_to_the_windows_step(
    step: AttributionStep, event: RawEvent
) -> None:
    result = step.apply([event])

    assert (result.letters, result.counts) == ([], {"dead_lettered": 1})
    assert step.positions([(event.topic, 0)]) == {(event.topic, 0): 1}


def test_what_is_delivered_again_is_told_from_what_is_new_and_moves_no_position_back(
    step: AttributionStep,
) -> None:
    topics = Topics()
    events = topics(served(100), served(101, request="r2"), visit(100))

    counts = [step.apply(events).counts, step.apply(events[:1]).counts, step.apply(events[1:]).counts]

    assert counts == [{"applied": 3}, {"redelivered": 1}, {"redelivered": 2}]
    assert step.positions([("impression.served.v1", 0)]) == {("impression.served.v1", 0): 2}


def test_an_event_from_the_future_does_not_hurry_time(step: AttributionStep) -> None:
    topics = Topics()
    step.apply(topics(served(100, request="open")))
    for message in (served(80_000, request="ahead", pin=2), visit(80_000), bought(80_000)):
        assert step.apply(topics(message, ingested_at_ms=120)).outputs == []


class Crash(Exception):
    """The process ends here."""


TIMES = st.integers(1_000, 1_120)
USERS, PINS = st.integers(1, 2), st.integers(1, 2)
LATENESS = 15


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, list[BaseModel]]:
    """Events by topic in an order that is off by at most LATENESS, with repeats anywhere behind."""
    impressions = draw(st.lists(st.tuples(TIMES, PINS, st.one_of(USERS, st.none())), min_size=1, max_size=10))
    visits = draw(st.lists(st.tuples(TIMES, PINS, st.one_of(USERS, st.none())), max_size=8))
    purchases = draw(
        st.lists(
            st.builds(
                EngagementObserved,
                pin_id=PINS,
                user_id=USERS,
                occurred_at_ms=TIMES,
                kind=st.sampled_from(("purchase", "redemption", "click", "save")),
                value_micros=st.integers(0, 2),
            ),
            max_size=8,
        )
    )
    shown = [served(at, request=f"r{n}", pin=pin, user=user) for n, (at, pin, user) in enumerate(impressions)]
    topics: dict[str, list[BaseModel]] = {
        "impression.served.v1": list(shown),
        "visit.observed.v1": [visit(at, pin=pin, user=user) for at, pin, user in visits],
        "engagement.observed.v1": list(purchases),
    }
    for name, events in topics.items():
        jitter = {id(one): draw(st.integers(0, LATENESS)) for one in events}
        ordered = sorted(events, key=lambda one: time_of(one) + jitter[id(one)])
        for place in draw(st.lists(st.integers(0, max(len(ordered) - 1, 0)), max_size=3)):
            if ordered:
                ordered.insert(draw(st.integers(place + 1, len(ordered))), ordered[place])
        topics[name] = ordered
    return topics


def time_of(event: BaseModel) -> int:
    return event.served_at_ms if isinstance(event, ImpressionServed) else event.occurred_at_ms  # type: ignore[attr-defined]


class Run:
    """One worker's life: batches in any split and interleaving, with crashes, and what was sent."""

    def __init__(self, path: Path, world: dict[str, list[BaseModel]]) -> None:
        self.path = path
        end: list[BaseModel] = [served(FAR, request="end", pin=99), visit(FAR, pin=99), bought(FAR, pin=99)]
        self.logs = {
            name: [raw(one, offset) for offset, one in enumerate([*events, last])]
            for (name, events), last in zip(world.items(), end, strict=True)
        }
        self.next = dict.fromkeys(self.logs, 0)
        self.committed = dict(self.next)
        self.sent: dict[bytes, bytes] = {}
        self.step = new_step(path, lateness_ms=LATENESS, most_closed=2)

    def send(self, outputs: list[Output]) -> None:
        for one in outputs:
            assert self.sent.setdefault(one.key, one.value) == one.value

    def take(self, draw: st.DataObject) -> None:
        batch = []
        for name in draw.draw(st.permutations(sorted(self.logs))):
            left = len(self.logs[name]) - self.next[name]
            count = draw.draw(st.integers(0, min(left, 4)))
            batch += self.logs[name][self.next[name] : self.next[name] + count]
            self.next[name] += count
        ending = draw.draw(st.sampled_from(("sent", "sent", "sent", "lost", "torn")))
        if ending == "torn":
            self.tear(batch)
        else:
            outputs = self.step.apply(batch).outputs
            if ending == "sent":
                self.send(outputs)
                self.committed = dict(self.next)
                return
        self.restart()

    def tear(self, batch: list[RawEvent]) -> None:
        """End between the write of the events and the write of the rows."""

        def crash(numbers: Any) -> tuple[list[Output], bool]:
            raise Crash

        self.step._close_windows = crash  # type: ignore[method-assign]
        with pytest.raises(Crash):
            self.step.apply(batch)

    def restart(self) -> None:
        self.step.close()
        self.step = new_step(self.path, lateness_ms=LATENESS, most_closed=2)
        stored = self.step.positions([(name, 0) for name in self.logs])
        self.next = {name: min(self.committed[name], stored.get((name, 0), 0)) for name in self.logs}
        self.send(self.step.tick(0).outputs)

    def finish(self) -> None:
        """Deliver the rest, interleaved one by one."""
        while rest := [log[self.next[name]] for name, log in self.logs.items() if self.next[name] < len(log)]:
            for event in rest:
                self.send(self.step.apply([event]).outputs)
                self.next[event.topic] += 1
        more = True
        while more:
            result = self.step.tick(0)
            self.send(result.outputs)
            more = result.more
        self.step.close()


@settings(max_examples=60, deadline=None)
@given(worlds(), st.data())
def test_rows_are_a_function_of_the_events_whatever_order_splits_and_crashes(
    world: dict[str, list[BaseModel]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as path:
        run = Run(Path(path), world)
        for _ in range(data.draw(st.integers(0, 6))):
            run.take(data)
        run.finish()

    shown = [one for one in world["impression.served.v1"] if isinstance(one, ImpressionServed)]
    unique = list({one.request_id: one for one in shown}.values())
    happened = [
        one
        for name in ("visit.observed.v1", "engagement.observed.v1")
        for one in world[name]
        if isinstance(one, VisitObserved | EngagementObserved)
    ]
    done = {row.request_id: row for row in (decode(ImpressionAttributed, one) for one in run.sent.values())}
    assert {(name, row.pin_id): told(row) for name, row in done.items()} == attributed(
        unique, happened, WINDOWS
    )
    assert all(
        row.served_at_ms <= row.converted_at_ms <= row.window_ends_at_ms
        for row in done.values()
        if row.converted_at_ms is not None
    )
