import pytest

from schemas.skew import EmbeddingsCounted
from streams.skew_mix import Bucket, Move, mix, serving_at, tiers_of
from tests.streams.raw_events import VERSION_A, VERSION_B, ranking_log


@pytest.mark.parametrize(
    ("snapshot_id", "tiers"),
    [
        ("realtime-20170101T00Z-01234567", ["realtime"]),
        ("batch-eu-20170101T00Z-01234567", ["batch-eu"]),
        ("realtime-20170101T05Z-01234567+batch-20170101T00Z-89abcdef", ["realtime", "batch"]),
        ("batch-20170101T05Z-01234567+batch-20170101T00Z-89abcdef+odd", ["batch", "default"]),
        ("unnamed", ["default"]),
        ("realtime-2017-01234567", ["default"]),
    ],
)
def test_the_tiers_are_what_the_snapshots_ids_begin_with(snapshot_id: str, tiers: list[str]) -> None:
    assert tiers_of(snapshot_id, "default") == tiers


def test_the_serving_versions_of_a_stretch_of_time() -> None:
    moves = [Move(100, "a"), Move(200, "b"), Move(300, "a")]

    stretches = [(0, 100), (0, 101), (100, 200), (150, 201), (200, 300), (250, 301), (300, 400), (0, 400)]

    assert [serving_at(moves, *one) for one in stretches] == [
        set(),
        {"a"},
        {"a"},
        {"a", "b"},
        {"b"},
        {"a", "b"},
        {"a"},
        {"a", "b"},
    ]


def counted(pins: int, rows: dict[str, int]) -> EmbeddingsCounted:
    return EmbeddingsCounted(worker="w", tier="realtime", from_ms=0, until_ms=1, pins=pins, rows=rows)


def test_each_bucket_is_judged_by_the_release_of_its_own_time() -> None:
    before, after = Bucket(), Bucket()
    before.add_embeddings(counted(10, {VERSION_A: 10}))
    after.add_embeddings(counted(10, {VERSION_A: 10, VERSION_B: 4}))
    moves = [Move(0, VERSION_A), Move(100_000, VERSION_B)]

    found = mix({50_000: before, 500_000: after}, moves, grace_ms=60_000)["stream_not_aligned"]

    assert (found.counted, found.skewed, found.share) == (20, 6, 0.3)
    assert found.versions == {VERSION_A: 1.0, VERSION_B: 0.2}


def test_answers_are_counted_by_query_version_and_pairs_by_pin_version() -> None:
    bucket = Bucket()
    bucket.add_answer(ranking_log(9, (1, 2, 3)))
    bucket.add_answer(ranking_log(9, (1,), query_version=VERSION_B))
    bucket.add_answer(ranking_log(9, (1, 2), pin_versions=(VERSION_A, VERSION_B)))
    bucket.add_answer(ranking_log(9, ()))

    found = mix({0: bucket}, [Move(-1_000_000, VERSION_A)], grace_ms=0)

    assert found["mixed_responses"][:2] == (4, 1)
    assert found["mixed_responses"].versions == {VERSION_A: 4 / 6, VERSION_B: 2 / 6}
    assert found["query_not_released"][:2] == (4, 1)
    assert found["query_not_released"].versions == {VERSION_A: 0.75, VERSION_B: 0.25}


def test_answers_under_tolerate_are_not_judged_to_be_mixed() -> None:
    bucket = Bucket()
    mixed = ranking_log(9, (1, 2), pin_versions=(VERSION_A, VERSION_B))
    bucket.add_answer(mixed.model_copy(update={"version_policy": "tolerate"}))
    tolerated = mix({0: bucket}, [Move(-1_000_000, VERSION_B)], grace_ms=0)
    bucket.add_answer(mixed)
    bucket.add_answer(ranking_log(9, (1, 2)))
    enforced = mix({0: bucket}, [Move(-1_000_000, VERSION_B)], grace_ms=0)

    assert tolerated["mixed_responses"] == (0, 0, {})
    assert enforced["mixed_responses"] == (2, 1, {VERSION_A: 0.75, VERSION_B: 0.25})
    assert enforced["query_not_released"][:2] == (3, 3)


def test_without_a_release_only_mixed_answers_are_judged() -> None:
    bucket = Bucket()
    bucket.add_embeddings(counted(10, {}))
    bucket.add_answer(ranking_log(9, (1, 2), pin_versions=(VERSION_A, VERSION_B)))

    assert {kind: found[:2] for kind, found in mix({0: bucket}, [], 0).items()} == {
        "mixed_responses": (1, 1),
        "stream_not_aligned": (0, 0),
        "query_not_released": (0, 0),
    }


def test_more_rows_than_pins_are_no_skew() -> None:
    bucket = Bucket()
    bucket.add_embeddings(counted(10, {VERSION_A: 5_000}))

    found = mix({0: bucket}, [Move(0, VERSION_A)], 0)["stream_not_aligned"]

    assert (found.skewed, found.versions) == (0, {VERSION_A: 1.0})
