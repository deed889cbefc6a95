import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from confluent_kafka import Consumer, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.batch import BatchDecoder
from schemas.codec import decode, encode
from schemas.errors import Refused, RetryableError
from schemas.events import PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED
from streams.embedded_broker import PARTITION_MAX_BYTES, EmbeddedBroker
from streams.kafka import KafkaSettings, consumer_config
from streams.replay import (
    SLICE,
    Pace,
    Position,
    Progress,
    Timing,
    encode_events,
    read_position,
    replay,
    write_position,
)
from streams.replay_sink import GroupLag, KafkaSink
from tests.schemas.examples import FULL_PIN_CHANGED, pin_changed

changes = st.fixed_dictionaries(
    {"pin_id": st.integers(0, 2**63 - 1), "occurred_at_ms": st.integers(0, 4_000_000_000_000)},
    optional={
        "title": st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20),
        "price_micros": st.integers(0, 2**53 - 1),
        "auto_targeting": st.booleans(),
        "coupons": st.lists(st.integers(0, 9), min_size=3, max_size=3),
        "target_ages": st.lists(st.sampled_from(["19-24", "65+"]), max_size=2),
    },
)
DECODER = BatchDecoder(PinChanged)


@settings(deadline=None)
@given(st.lists(changes, min_size=1, max_size=15))
def test_encoded_rows_decode_to_the_events_and_hold_no_nulls(rows: list[dict[str, Any]]) -> None:
    events = [PinChanged(**row) for row in rows]
    keys, values = encode_events(DECODER.decode([encode(event) for event in events]))
    assert keys == [str(event.pin_id).encode() for event in events]
    assert [decode(PinChanged, value) for value in values] == events
    assert not any(value is None for line in values for value in orjson.loads(line).values())


def test_a_full_event_is_written_as_the_codec_writes_it() -> None:
    event = pin_changed(**FULL_PIN_CHANGED)
    _, (value,) = encode_events(DECODER.decode([encode(event)]))
    assert orjson.loads(value) == orjson.loads(encode(event))


def frame(first: int, count: int) -> pl.DataFrame:
    return pl.DataFrame({"pin_id": range(first, first + count), "occurred_at_ms": [5] * count})


def frames(*counts: int) -> list[tuple[str, pl.DataFrame]]:
    """Frames of these sizes, whose Pins count up across all."""
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    return [(f"topic-{i}", frame(first, n)) for i, (first, n) in enumerate(zip(firsts, counts, strict=True))]


@dataclass
class Consumers:
    """A sink whose consumers do `per_second` events a second; time passes by sleeping and sending."""

    per_second: float = 1e9
    send_seconds: float = 0.0
    fail_at: int | None = None
    now: float = 0.0
    keys: list[int] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    done: float = 0.0
    longest_lag: int = 0
    asked: int = 0

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.done = min(self.done + seconds * self.per_second, len(self.keys))

    def send(self, topic: str, keys: list[bytes], values: list[bytes]) -> None:
        if self.fail_at is not None and len(self.keys) + len(keys) > self.fail_at:
            raise RetryableError("the broker went away")
        self.topics.append(topic)
        self.keys += map(int, keys)
        self._pass(self.send_seconds)
        self.longest_lag = max(self.longest_lag, len(self.keys) - int(self.done))

    def lag(self) -> int:
        self.asked += 1
        return len(self.keys) - int(self.done)

    @property
    def timing(self) -> Timing:
        return Timing(clock=lambda: self.now, sleep=self._pass)


def test_every_event_is_sent_once_in_order_to_its_topic() -> None:
    sink = Consumers()
    end = replay(frames(SLICE + 3, 0, 2), sink, None, sink.timing)
    assert sink.keys == list(range(SLICE + 5))
    assert sink.topics == ["topic-0", "topic-0", "topic-2"]
    assert end == Position(frame=3, row=0, events=SLICE + 5)


def test_consumers_are_never_more_than_max_lag_behind() -> None:
    sink = Consumers(per_second=10_000, send_seconds=0.01)
    replay(frames(20 * SLICE), sink, None, sink.timing, pace=Pace(max_lag=20_000))
    assert len(sink.keys) == 20 * SLICE
    assert sink.longest_lag <= 20_000
    # 100,000 events at 10,000/s take 10 s; the last 20,000 need not be waited for.
    assert 8.0 <= sink.now <= 10.0


def test_consumers_that_keep_up_are_hardly_asked() -> None:
    sink = Consumers(per_second=1e9, send_seconds=0.001)
    replay(frames(40 * SLICE), sink, None, sink.timing, pace=Pace(max_lag=10 * SLICE))
    assert sink.asked == 4


def test_a_max_lag_below_one_slice_still_moves() -> None:
    sink = Consumers(per_second=100_000)
    replay(frames(3 * SLICE), sink, None, sink.timing, pace=Pace(max_lag=1))
    assert sink.longest_lag == SLICE and len(sink.keys) == 3 * SLICE


def test_progress_says_rate_waiting_and_time_left() -> None:
    sink, seen = Consumers(send_seconds=0.5), list[Progress]()
    replay(frames(4 * SLICE), sink, None, sink.timing, total=4 * SLICE, on_progress=seen.append)
    assert [one.events for one in seen] == [SLICE, 2 * SLICE, 3 * SLICE, 4 * SLICE]
    assert {one.events_per_second for one in seen} == {SLICE / 0.5}
    assert [one.eta_seconds for one in seen] == [1.5, 1.0, 0.5, 0.0]
    sink = Consumers(per_second=SLICE)
    replay(frames(2 * SLICE), sink, None, sink.timing, pace=Pace(SLICE, 0.25), on_progress=seen.append)
    assert seen[-1].waited_seconds == 1.0 and seen[-1].eta_seconds is None


@pytest.mark.parametrize("fail_at", [0, SLICE, SLICE + 1, 2 * SLICE + 10, 3 * SLICE])
def test_a_replay_goes_on_where_it_stopped(tmp_path: Path, fail_at: int) -> None:
    counts, file = (2 * SLICE, 10, SLICE), tmp_path / "replay" / "position.json"
    first = Consumers(fail_at=fail_at)
    with pytest.raises(RetryableError):
        replay(frames(*counts), first, file, first.timing)
    then = Consumers()
    end = replay(frames(*counts), then, file, then.timing)
    assert first.keys + then.keys == list(range(3 * SLICE + 10))
    assert end == read_position(file) == Position(3, 0, 3 * SLICE + 10)
    assert replay(frames(*counts), then, file, then.timing) == end
    assert len(then.keys) + len(first.keys) == 3 * SLICE + 10


def test_a_position_of_other_frames_is_refused(tmp_path: Path) -> None:
    sink, file = Consumers(), tmp_path / "position.json"
    write_position(file, Position(0, 11, 11))
    with pytest.raises(Refused, match="frame 0 of 10 events"):
        replay(frames(10), sink, file, sink.timing)
    write_position(file, Position(2, 0, 11))
    with pytest.raises(Refused, match="came 1 frames"):
        replay(frames(10), sink, file, sink.timing)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"frame":"x","row":0,"events":0}'])
def test_a_position_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "position.json"
    file.write_text(text)
    with pytest.raises(Refused, match="replay_position"):
        read_position(file)


def test_a_position_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "position.json"
    for events in range(3):
        write_position(file, Position(1, 2, events))
        assert json.loads(file.read_text()) == {"frame": 1, "row": 2, "events": events}
    assert [path.name for path in tmp_path.iterdir()] == ["position.json"]


@pytest.fixture
def kafka() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([(PIN_CHANGED.name, 4), (PIN_AGGREGATED.name, 4)]) as broker:
        yield KafkaSettings(bootstrap_servers=broker.bootstrap_servers)


def test_group_lag_is_what_the_group_has_not_committed(kafka: KafkaSettings) -> None:
    sink = KafkaSink(kafka)
    lag = GroupLag(kafka, "g", [PIN_CHANGED.name, PIN_AGGREGATED.name])
    assert lag() == 0
    sink.send(PIN_CHANGED.name, [b"1"] * 30, [b"{}"] * 30)
    sink.send(PIN_AGGREGATED.name, [b"1"] * 5, [b"{}"] * 5)
    assert lag() == 35
    consumer = Consumer(consumer_config(kafka, "g"))
    ends = [consumer.get_watermark_offsets(TopicPartition(PIN_CHANGED.name, n), timeout=5) for n in range(4)]
    (partition,) = [number for number, (_, high) in enumerate(ends) if high == 30]
    consumer.commit(offsets=[TopicPartition(PIN_CHANGED.name, partition, 20)], asynchronous=False)
    assert lag() == 15
    consumer.close()
    lag.close()


def test_a_replay_paced_by_a_group_loses_nothing_on_the_embedded_broker(kafka: KafkaSettings) -> None:
    """More bytes than the one partition of Pin 7 holds; its consumer reads only while the replay waits."""
    count = 40_000
    titles = [random.Random(number).randbytes(100).hex() for number in range(count)]
    assert count * 200 > PARTITION_MAX_BYTES
    frame = pl.DataFrame({"pin_id": [7] * count, "occurred_at_ms": range(count), "title": titles})
    seen: list[int] = []
    consumer = Consumer(consumer_config(kafka, "g"))
    consumer.subscribe([PIN_CHANGED.name])

    def consume(seconds: float) -> None:
        messages = consumer.consume(2_000, 1.0)
        seen.extend(orjson.loads(message.value() or b"")["occurred_at_ms"] for message in messages)
        if messages:
            consumer.commit(message=messages[-1], asynchronous=False)

    lag = GroupLag(kafka, "g", [PIN_CHANGED.name])
    timing = Timing(clock=lambda: 0.0, sleep=consume)
    replay([(PIN_CHANGED.name, frame)], KafkaSink(kafka, [lag]), None, timing, pace=Pace(max_lag=10_000))
    while len(seen) < count:
        consume(0.0)
    consumer.close()
    lag.close()
    assert seen == list(range(count))


def test_events_that_the_broker_refuses_end_the_replay() -> None:
    settings = KafkaSettings(bootstrap_servers="127.0.0.1:9")
    sink = KafkaSink(settings, overrides={"delivery.timeout.ms": 200})
    with pytest.raises(RetryableError, match="goes on from here"):
        sink.send(PIN_CHANGED.name, [b"1"], [b"{}"])
