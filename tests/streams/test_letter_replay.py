import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from schemas.codec import encode
from schemas.errors import Refused, RetryableError
from schemas.topics import PIN_CHANGED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, ensure_topics
from streams.letter_replay import GroupTurn, KafkaLetterSender, Replay, ReplayCounts, ReplayJob, rehearse
from streams.letters import Letter, LetterFilter
from streams.local_kafka import LocalKafka
from streams.topic_reader import TopicReader
from tests.schemas.examples import pin_changed
from tests.streams.letters_on_a_topic import DLQ, broken, letter, put_letters, records

ROOT = Path(__file__).parent.parent.parent
JOB = ReplayJob(PIN_CHANGED.name, LetterFilter(), now_ms=2_000_000)


@contextmanager
def broker() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([(PIN_CHANGED.name, 32), (DLQ, 4)]) as running:
        yield KafkaSettings(
            bootstrap_servers=running.bootstrap_servers, session_timeout_ms=6_000, heartbeat_interval_ms=500
        )


@pytest.fixture
def settings() -> Iterator[KafkaSettings]:
    with broker() as running:
        yield running


class Held:
    """A turn that nobody else wants."""

    def wait(self) -> None:
        pass

    def held(self) -> int:
        return 1


def run(
    settings: KafkaSettings,
    job: ReplayJob = JOB,
    sender: KafkaLetterSender | None = None,
    told: Callable[[Letter], None] = lambda _: None,
) -> ReplayCounts:
    with TopicReader(settings) as reader:
        return Replay(
            reader, sender or KafkaLetterSender(settings), Held(), job, lambda one, result, why: told(one)
        ).run()


def put_back(settings: KafkaSettings) -> Counter[bytes]:
    """Key -> how often its message is on the source topic."""
    return Counter(one.key or b"" for one in records(settings, PIN_CHANGED.name))


def test_a_letter_goes_back_as_it_was_to_where_its_pin_belongs(settings: KafkaSettings) -> None:
    # A producer with another hash put Pin 7 on 20; by murmur2 it belongs on 19 of 32.
    put_letters(
        settings, [letter(7, partition=20)], [("ce_id", b"9"), ("x-dlq-attempts", b"2"), ("none", None)]
    )

    assert run(settings) == ReplayCounts(replayed=1)

    (came,) = records(settings, PIN_CHANGED.name)
    (lies,) = [one for one in records(settings, DLQ) if one.value]
    assert (came.partition, came.key) == (19, b"7")
    assert came.value == encode(pin_changed(pin_id=7, bid_micros=7))
    assert came.headers == [
        ("x-dlq-replayed", f"{DLQ}/{lies.partition}/{lies.offset}".encode()),
        ("x-dlq-attempts", b"3"),
        ("ce_id", b"9"),
        ("none", None),
    ]


def test_a_second_run_puts_nothing_back(settings: KafkaSettings) -> None:
    put_letters(settings, [letter(1), letter(2), broken(3)])

    assert run(settings) == ReplayCounts(replayed=2, would_fail=1)
    assert run(settings) == ReplayCounts(already_replayed=2, would_fail=1)
    assert put_back(settings) == {b"1": 1, b"2": 1}


def test_of_two_letters_of_one_message_one_is_put_back(settings: KafkaSettings) -> None:
    # Written twice around a kill between the letter and the commit; the third is of a topic made anew.
    put_letters(settings, [letter(7), letter(7), letter(7, ingested_at_ms=5), letter(8, offset=-1)] * 2)

    with TopicReader(settings) as reader:
        rehearsed = rehearse(reader, JOB, lambda letter, result, why: None)
    assert rehearsed == ReplayCounts(would_replay=4, already_replayed=4)
    assert run(settings) == ReplayCounts(replayed=4, already_replayed=4)
    assert put_back(settings) == {b"7": 2, b"8": 2}
    assert run(settings) == ReplayCounts(already_replayed=8)


def test_a_second_letter_that_comes_after_its_message_was_put_back_is_passed_over(
    settings: KafkaSettings,
) -> None:
    put_letters(settings, [letter(7)])
    run(settings)
    put_letters(settings, [letter(7), letter(8)])

    assert run(settings) == ReplayCounts(replayed=1, already_replayed=2)
    assert put_back(settings) == {b"7": 1, b"8": 1}


def test_letters_that_would_fail_again_stay_unless_forced_and_half_ones_always(
    settings: KafkaSettings,
) -> None:
    put_letters(settings, [broken(3), letter(4, value=b"x" * 1_020_000, message="too large")])

    assert run(settings) == ReplayCounts(would_fail=2)
    forced = ReplayJob(PIN_CHANGED.name, LetterFilter(), now_ms=0, force=True)
    assert run(settings, forced) == ReplayCounts(replayed=1, would_fail=1)
    assert put_back(settings) == {b"3": 1}


def test_a_filter_and_a_limit_choose_and_the_rest_can_follow(settings: KafkaSettings) -> None:
    put_letters(settings, [letter(pin) for pin in range(10)])
    young = LetterFilter(max_age_seconds=999.996)  # Letter n came in at 1,000,000 + n; now is 2,000,000.

    assert run(settings, ReplayJob(PIN_CHANGED.name, young, 2_000_000, limit=2)).replayed == 2
    assert run(settings, ReplayJob(PIN_CHANGED.name, young, 2_000_000)) == ReplayCounts(
        replayed=4, already_replayed=2
    )
    assert put_back(settings) == {b"%d" % pin: 1 for pin in range(4, 10)}


def test_a_rehearsal_tells_all_and_changes_nothing(settings: KafkaSettings) -> None:
    put_letters(settings, [letter(1), broken(2)])
    told: dict[bytes | None, tuple[str, str]] = {}

    with TopicReader(settings) as reader:
        counts = rehearse(reader, JOB, lambda one, result, why: told.update({one.key: (result, why)}))

    assert counts == ReplayCounts(would_replay=1, would_fail=1)
    assert told[b"1"] == ("would_replay", "")
    assert told[b"2"][0] == "would_fail"
    assert "decode_error" in told[b"2"][1]
    assert put_back(settings) == {}


def test_a_lost_turn_is_taken_anew_and_the_marks_of_the_other_are_read(settings: KafkaSettings) -> None:
    put_letters(settings, [letter(pin) for pin in range(6)])

    class LostOnce(Held):
        """After two letters another replay puts back all that is left, and gives the turn back."""

        turn = 1

        def held(self) -> int:
            return self.turn

    turn = LostOnce()

    def other(_: Letter) -> None:
        if turn.turn == 1 and len(told) == 1:
            assert run(settings) == ReplayCounts(replayed=4, already_replayed=2)
            turn.turn = 2
        told.append(1)

    told: list[int] = []
    with TopicReader(settings) as reader:
        counts = Replay(reader, KafkaLetterSender(settings), turn, JOB, lambda one, *_: other(one)).run()

    assert counts == ReplayCounts(replayed=2, already_replayed=6)
    assert set(put_back(settings).values()) == {1}


def test_who_stands_still_for_too_long_takes_the_turn_anew(settings: KafkaSettings) -> None:
    now = [100.0]
    turn = GroupTurn(settings, DLQ, lambda: now[0])
    try:
        turn.wait()
        assert turn.held() == 1
        now[0] += 2.9
        assert turn.held() == 1
        now[0] += 3.1
        assert turn.held() == 0
        turn.wait()
        assert turn.held() == 2
    finally:
        turn.close()


def test_the_second_of_two_waits_and_says_so_when_its_patience_ends(settings: KafkaSettings) -> None:
    first = GroupTurn(settings, DLQ, time.monotonic)
    first.wait()
    stop = threading.Event()
    holding = threading.Thread(target=lambda: [first.held() for _ in iter(stop.is_set, True)])
    holding.start()
    second = GroupTurn(settings, DLQ, time.monotonic, patience_seconds=0.5)
    try:
        with pytest.raises(RetryableError, match="another replay"):
            second.wait()
    finally:
        stop.set()
        holding.join()
        second.close()
        first.close()


class Complaining:
    """A consumer that gets no partition and one error, again and again."""

    def __init__(self, error: KafkaError) -> None:
        self._message = SimpleNamespace(error=lambda: error)

    def subscribe(self, *_: Any, **__: Any) -> None:
        pass

    def poll(self, seconds: float) -> Any:
        return self._message

    def close(self) -> None:
        pass


def turn_that_hears(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> GroupTurn:
    consumer = Complaining(KafkaError(code, text))
    monkeypatch.setattr("streams.letter_replay.Consumer", lambda *_, **__: consumer)
    return GroupTurn(KafkaSettings(), DLQ, time.monotonic, patience_seconds=0.0)


@pytest.mark.parametrize(
    "code", [KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED]
)
def test_who_may_not_read_in_the_group_is_told_so_at_once(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    with pytest.raises(Refused, match=r"READ on group skewless-replay-\*") as refused:
        turn_that_hears(monkeypatch, code, "not allowed").wait()

    assert refused.value.came == "not allowed"


def test_who_waits_in_vain_is_told_the_last_error(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = turn_that_hears(monkeypatch, KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")

    with pytest.raises(RetryableError, match=r"at work.*; the last error was: 1/1 brokers are down"):
        turn.wait()


def test_of_two_that_are_in_the_group_one_has_the_turn(settings: KafkaSettings) -> None:
    first = GroupTurn(settings, DLQ, time.monotonic)
    first.wait()
    second = GroupTurn(settings, DLQ, time.monotonic)
    try:
        while not second._consumer.assignment():
            first.held()
            second.held()
            second._consumer.poll(0.01)
        while not first._consumer.assignment():
            first.held()

        assert bool(first.held()) != bool(second.held())
    finally:
        second.close()
        first.close()


def _killed(settings: KafkaSettings, point: str, calls: int) -> None:
    command = [sys.executable, "-m", "tests.streams.replay_process", settings.bootstrap_servers, point]
    done = subprocess.run([*command, str(calls)], check=False, cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL


def _run_in_turn(settings: KafkaSettings) -> ReplayCounts:
    with TopicReader(settings) as reader:
        turn = GroupTurn(settings, DLQ, time.monotonic)
        try:
            return Replay(reader, KafkaLetterSender(settings), turn, JOB, lambda *_: None).run()
        finally:
            turn.close()


@pytest.mark.parametrize(("point", "twice"), [("put_back", 1), ("mark", 0)])
def test_a_kill_costs_at_most_the_letter_in_flight(settings: KafkaSettings, point: str, twice: int) -> None:
    put_letters(settings, [letter(pin) for pin in range(20)])

    _killed(settings, point, 5)
    counts = _run_in_turn(settings)

    assert counts.replayed + counts.already_replayed == 20
    assert counts.already_replayed == 5 - twice
    assert Counter(put_back(settings).values()) == Counter([1] * (20 - twice) + [2] * twice)


def _two_at_once(settings: KafkaSettings, letters: int) -> tuple[list[ReplayCounts], Counter[bytes]]:
    put_letters(settings, [letter(pin) for pin in range(letters)])
    before = put_back(settings)
    counts: list[ReplayCounts] = []
    both = [threading.Thread(target=lambda: counts.append(_run_in_turn(settings))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    return counts, put_back(settings) - before


def test_two_at_once_put_each_letter_back_once(settings: KafkaSettings) -> None:
    counts, came = _two_at_once(settings, 300)

    assert len(counts) == 2
    assert sum(one.replayed for one in counts) == 300
    assert came == {b"%d" % pin: 1 for pin in range(300)}


@pytest.fixture(scope="module")
def own_kafka(kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    with LocalKafka(kafka_home, tmp_path_factory.mktemp("kafka")) as local:
        settings = KafkaSettings(
            bootstrap_servers=local.bootstrap_servers, session_timeout_ms=6_000, heartbeat_interval_ms=500
        )
        ensure_topics(settings)
        yield settings


@pytest.mark.kafka
def test_on_a_real_kafka_two_at_once_and_a_third_after_put_each_letter_back_once(
    own_kafka: KafkaSettings,
) -> None:
    counts, came = _two_at_once(own_kafka, 2_000)

    assert sum(one.replayed for one in counts) == 2_000
    assert came == {b"%d" % pin: 1 for pin in range(2_000)}
    assert _run_in_turn(own_kafka) == ReplayCounts(already_replayed=2_000)


@pytest.mark.kafka
def test_on_a_real_kafka_a_kill_costs_at_most_the_letter_in_flight(own_kafka: KafkaSettings) -> None:
    put_letters(own_kafka, [letter(pin) for pin in range(5_000, 5_020)])
    before = put_back(own_kafka)

    _killed(own_kafka, "put_back", 5)
    _run_in_turn(own_kafka)

    assert sorted((put_back(own_kafka) - before).values()) == [1] * 19 + [2]
