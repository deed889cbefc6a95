from pathlib import Path

import pytest

from benchmarks.enrich_workload import Workload, events, fits, poisoned
from benchmarks.peers.arguments import WorkerArguments, parse_arguments
from schemas.codec import decode
from schemas.errors import InvalidMessage
from schemas.events import PinChanged
from schemas.vectors import CONTENT_DIMENSION, decode_fp16


def _read(value: bytes) -> PinChanged | None:
    try:
        return decode(PinChanged, value)
    except InvalidMessage:
        return None


def test_both_spellings_say_the_same_of_the_same_pins() -> None:
    pairs = zip(events(50), events(50, Workload("array")), strict=True)
    for (key, text), (other_key, array) in pairs:
        one, other = decode(PinChanged, text), decode(PinChanged, array)
        assert key == other_key == b"%d" % one.pin_id
        assert one == other
        assert len(decode_fp16(one.content_embedding or "")) == CONTENT_DIMENSION


@pytest.mark.parametrize("size", [1000, 4000])
def test_padding_gives_the_size_and_changes_nothing_that_is_read(size: int) -> None:
    plain, padded = events(20), events(20, Workload(bytes=size))
    assert {len(value) for _, value in padded} == {size}
    assert [_read(value) for _, value in padded] == [_read(value) for _, value in plain]


def test_one_event_in_a_hundred_is_bad_and_keeps_its_key() -> None:
    clean, bad = events(1000), events(1000, Workload(poison_every=100))
    assert [key for key, _ in clean] == [key for key, _ in bad]
    assert [row for row, (_, value) in enumerate(bad) if _read(value) is None] == list(range(50, 1000, 100))
    assert [row for row, pair in enumerate(poisoned(clean, 1000, 7)) if pair != clean[row]] == [7]


def test_without_a_kafka_only_as_many_events_as_the_embedded_broker_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    assert fits(10**6, 438, partitions=1) == int(5 * 2**20 // 438 * 0.8)
    assert fits(1000, 438, partitions=32) == 1000
    monkeypatch.setenv("KAFKA_HOME", "/somewhere")
    assert fits(10**6, 438, partitions=1) == 10**6


def test_a_workers_arguments_are_read_back_as_they_were_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = WorkerArguments("127.0.0.1:9092", "g", Path("state"), Path("towers"), "a" * 64, 2, "docs")
    monkeypatch.setattr("sys.argv", ["worker", *given.options()])
    assert parse_arguments(["docs", "buffer"]) == given
