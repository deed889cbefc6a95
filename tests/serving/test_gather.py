"""The shards' answers: what crosses the wire, what is thrown away, and how the rest becomes one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.shard_slices import Shard
from schemas.errors import Refused
from serving.gather import merge, misfit
from serving.inventory import Described
from serving.shard_wire import (
    Answer,
    AnswerFacts,
    Question,
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
)

from .fakes import manifest, version

TOWER, OTHER = version("tower"), version("other")
RELEASE = manifest("r1", TOWER, 100)
SHARDS = [Shard(1, 2), Shard(2, 2)]


def pins_of(shard: Shard, count: int) -> list[int]:
    everything = np.arange(1_000)
    return [int(pin) for pin in everything[shard.holds(everything)][:count]]


def answer(of: Shard, dots: list[float], **facts: Any) -> Answer:
    """The first Pins of the shard with these dots."""
    pins = np.array(pins_of(of, len(dots)), np.int64)
    said = AnswerFacts(
        **{
            "shard": of.number,
            "shards": of.shards,
            "release_id": "r1",
            "tower_version": TOWER,
            "versions": [TOWER],
            "total": 50,
            "dropped": {"status": 50 - len(dots)},
            "pins": 50,
            "fresh_pins": 1,
            **facts,
        }
    )
    described = Described(
        pin_id=pins,
        advertiser_id=pins * 10,
        bid_micros=pins * 100,
        daily_budget_micros=pins * 1_000,
        version_code=np.zeros(len(pins), np.uint8),
        fresh=pins % 2 == 0,
    )
    titles = pa.array([f"Pin {pin}" for pin in pins.tolist()], pa.string())
    logged = np.stack([pins + number for number in range(4)], axis=1)
    eligible = np.ones(len(pins), np.bool_)
    return Answer(said, np.array(dots, np.float32), eligible, described, titles, logged)


def test_an_answer_arrives_with_every_bit() -> None:
    sent = answer(SHARDS[0], [0.1, 1e-42, -3.4e38, 1 / 3])
    came = decode_answer(encode_answer(sent))
    assert came.facts == sent.facts
    assert came.dots.tobytes() == sent.dots.tobytes()
    assert came.titles.equals(sent.titles)
    assert np.array_equal(came.logged, sent.logged)
    for name, values in vars(sent.pins).items():
        assert np.array_equal(getattr(came.pins, name), values), name


def test_a_question_arrives_with_every_bit() -> None:
    query = np.array([0.1, -1e-42, 1 / 3], np.float32)
    sent = Question("r1", query, 3, 123, 1_000, np.array([5, 7]), np.array([50, 70]))
    came = decode_question(encode_question(sent))
    assert came.query.tobytes() == query.tobytes()
    assert (came.release_id, came.age_band, came.at_ms, came.width) == ("r1", 3, 123, 1_000)
    assert (came.spent_pins.tolist(), came.spent_micros.tolist()) == ([5, 7], [50, 70])


@pytest.mark.parametrize("cut", [0, 1, 8, 100, 400, -9, -1])
def test_half_a_message_is_refused(cut: int) -> None:
    body = encode_answer(answer(SHARDS[0], [0.5]))
    with pytest.raises(Refused, match="Arrow stream"):
        decode_answer(body[:cut] if cut >= 0 else b"\0" + body[:cut])


def test_messages_are_not_taken_for_each_other() -> None:
    nothing = np.empty(0, np.int64)
    question = encode_question(Question("r1", np.ones(3, np.float32), 0, 1, 1, nothing, nothing))
    with pytest.raises(Refused):
        decode_answer(question)
    with pytest.raises(Refused):
        decode_question(encode_answer(answer(SHARDS[0], [0.5])))


@pytest.mark.parametrize("change", [{"age_band": 99}, {"width": 0}, {"width": 10**6}, {"spent_micros": [1]}])
def test_a_question_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    nothing = np.empty(0, np.int64)
    question = Question("r1", np.ones(3, np.float32), 0, 1, 1, nothing, nothing)
    arrays: dict[str, Any] = {
        name: np.array(one) if isinstance(one, list) else one for name, one in change.items()
    }
    with pytest.raises(Refused):
        decode_question(encode_question(replace(question, **arrays)))


def test_an_answer_of_the_release_is_taken() -> None:
    assert misfit(answer(SHARDS[0], [0.5, 0.4]), RELEASE, SHARDS[0]) is None


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"release_id": "r0"}, "other_release"),
        ({"tower_version": OTHER}, "other_version"),
        ({"versions": [OTHER]}, "other_version"),
        ({"shard": 2}, "other_shard"),
        ({"shards": 3}, "other_shard"),
    ],
)
def test_an_answer_of_another_release_version_or_shard_is_thrown_away(
    facts: dict[str, Any], why: str
) -> None:
    assert misfit(answer(SHARDS[0], [0.5], **facts), RELEASE, SHARDS[0]) == why


def test_one_pin_of_another_version_is_enough() -> None:
    came = answer(SHARDS[0], [0.5, 0.4], versions=[TOWER, OTHER])
    came.pins.version_code[1] = 1
    assert misfit(came, RELEASE, SHARDS[0]) == "other_version"
    tolerant = RELEASE.model_copy(update={"version_policy": "tolerate"})
    assert misfit(came, tolerant, SHARDS[0]) is None


def test_pins_of_another_shard_and_impossible_numbers_are_thrown_away() -> None:
    foreign = replace(answer(SHARDS[1], [0.5]), facts=answer(SHARDS[0], []).facts)
    assert misfit(foreign, RELEASE, SHARDS[0]) == "malformed"
    assert misfit(answer(SHARDS[0], [float("nan")]), RELEASE, SHARDS[0]) == "malformed"


def test_the_best_of_all_come_first_and_ties_go_to_the_lower_pin() -> None:
    one, two = (answer(shard, [0.9, 0.5, 0.5, 0.1]) for shard in SHARDS)
    merged = merge([two, one], 3, 6)

    pins = [*one.pins.pin_id.tolist(), *two.pins.pin_id.tolist()]
    dots = [*one.dots.tolist(), *two.dots.tolist()]
    expected = [pin for _, pin in sorted((-dot, pin) for dot, pin in zip(dots, pins, strict=True))][:6]
    assert merged.pins.pin_id.tolist() == expected
    assert merged.titles.to_pylist() == [f"Pin {pin}" for pin in expected]
    assert merged.pins.bid_micros.tolist() == [pin * 100 for pin in expected]
    assert merged.logged_of(np.arange(6)).tolist() == [[pin, pin + 1, pin + 2, pin + 3] for pin in expected]
    assert merged.total == 100
    assert merged.dropped == {"status": 92, "not_retrieved": 2}
    assert merged.total == len(expected) + sum(merged.dropped.values())
    coverage = merged.coverage
    assert (coverage.shards, coverage.shards_answered, coverage.pins, coverage.fresh_pins) == (3, 2, 100, 2)
    assert not coverage.complete


def test_versions_keep_their_names_when_shards_number_them_differently() -> None:
    one = answer(SHARDS[0], [0.9, 0.8], versions=[TOWER, OTHER])
    two = answer(SHARDS[1], [0.7, 0.6], versions=[OTHER, TOWER])
    one.pins.version_code[:] = [0, 1]
    two.pins.version_code[:] = [0, 1]
    merged = merge([one, two], 2, 10)
    names = [merged.versions[code] for code in merged.pins.version_code.tolist()]
    assert names == [TOWER, OTHER, OTHER, TOWER]
