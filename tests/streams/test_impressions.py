from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.codec import decode
from schemas.errors import DeadLetterReason
from schemas.impressions import ImpressionServed
from schemas.logs import LoggedAd
from streams.impressions import ImpressionsStep, impressions_of
from streams.steps import RawEvent
from tests.streams.raw_events import VERSION_A, VERSION_B, ranking_log, raw


@pytest.fixture
def step(tmp_path: Path) -> Iterator[ImpressionsStep]:
    made = ImpressionsStep(tmp_path)
    yield made
    made.close()


def logged(offset: int, *, request: str = "r1", key: bytes | None = None) -> RawEvent:
    log = ranking_log(1_000, (7, 5), request=request)
    return raw(log, offset, key=request.encode() if key is None else key, partition=3)


def test_each_ad_becomes_an_impression_on_its_pins_key_in_the_answers_order(step: ImpressionsStep) -> None:
    outputs = step.apply([logged(0)]).outputs

    shown = [decode(ImpressionServed, one.value) for one in outputs]
    assert [(one.topic, one.key, one.partition) for one in outputs] == [
        ("impression.served.v1", b"7", None),
        ("impression.served.v1", b"5", None),
    ]
    assert [(one.position, one.pin_id, one.served_at_ms, one.queried_at_ms) for one in shown] == [
        (0, 7, 1_000, 995),
        (1, 5, 1_000, 995),
    ]


def test_an_impression_carries_what_was_logged_of_its_own_ad() -> None:
    log = ranking_log(1_000, (7, 5), pin_versions=(VERSION_A, VERSION_B))

    shown = impressions_of(log)

    common = set(ImpressionServed.model_fields) & set(type(log).model_fields)
    for one, ad in zip(shown, log.ads, strict=True):
        assert {name: getattr(one, name) for name in common} == {name: getattr(log, name) for name in common}
        assert (one.pin_tower_version, one.dot, one.pctr) == (ad.tower_version, ad.dot, ad.pctr)
        assert (one.advertiser_id, one.bid_micros, one.price_micros) == (
            ad.advertiser_id,
            ad.bid_micros,
            ad.price_micros,
        )


def test_an_impression_carries_what_was_logged_of_its_pin_and_nothing_for_an_older_log() -> None:
    old = ranking_log(1_000, (7, 5))
    names = [name for name in LoggedAd.model_fields if name.startswith("pin_") and name != "pin_id"]
    logged = dict(zip(names, (11, 12, 13, 14, 15), strict=True))
    ads = [old.ads[0].model_copy(update=logged), old.ads[1]]

    shown = impressions_of(old.model_copy(update={"ads": ads}))

    assert [{name: getattr(one, name) for name in names} for one in shown] == [logged, dict.fromkeys(names)]


def test_a_replay_of_old_data_takes_the_querys_own_time() -> None:
    assert [one.served_at_ms for one in impressions_of(ranking_log(1_000, (7,)), "queried")] == [995]


def test_a_log_that_comes_again_gives_the_same_impressions_again(step: ImpressionsStep) -> None:
    first, second = step.apply([logged(4), logged(5)]), step.apply([logged(4)])

    assert second.outputs == first.outputs[:2]
    assert step.positions([("ranking.logged.v1", 3)]) == {("ranking.logged.v1", 3): 6}


def test_the_position_is_there_after_a_restart(tmp_path: Path) -> None:
    first = ImpressionsStep(tmp_path)
    first.apply([logged(4)])
    first.close()
    second = ImpressionsStep(tmp_path)
    positions = second.positions([("ranking.logged.v1", 3), ("ranking.logged.v1", 4)])
    second.close()

    assert positions == {("ranking.logged.v1", 3): 5}


def test_a_log_with_a_score_that_is_no_number_is_turned_down_whole(step: ImpressionsStep) -> None:
    event = logged(0)
    nan = replace(event, value=(event.value or b"").replace(b'"dot":0.25', b'"dot":NaN', 1))

    result = step.apply([nan, logged(1)])

    assert [(letter.reason, letter.message) for letter in result.letters] == [
        (
            DeadLetterReason.SCHEMA_INVALID,
            "no impression can be made of it: dot: Input should be a finite number",
        )
    ]
    assert len(result.outputs) == 2


def test_a_bad_log_is_turned_down_and_the_next_one_is_not(step: ImpressionsStep) -> None:
    broken = RawEvent("ranking.logged.v1", 3, 0, 0, b"r1", b"not JSON", [("ce_type", b"ranking.logged.v2")])
    result = step.apply([broken, logged(1, key=b"other"), logged(2)])

    assert [letter.reason for letter in result.letters] == [
        DeadLetterReason.UNKNOWN_VERSION,
        DeadLetterReason.KEY_MISMATCH,
    ]
    assert len(result.outputs) == 2
