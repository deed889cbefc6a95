import json
from pathlib import Path

import pytest

from schemas.errors import Refused
from schemas.tiers import Tier, Tiers, read_tiers, single_tier


def write(path: Path, *tiers: dict[str, object]) -> Path:
    path.write_text(json.dumps({"tiers": tiers}))
    return path


def test_without_a_file_everything_is_one_realtime_tier(tmp_path: Path) -> None:
    tiers = read_tiers(tmp_path / "tiers.json", "main")
    assert tiers == single_tier("main") == Tiers(tiers=[Tier(name="main", policy="realtime")])


def test_two_tiers_share_the_buckets(tmp_path: Path) -> None:
    path = write(
        tmp_path / "tiers.json",
        {"name": "batch", "policy": "batch", "first_bucket": 20, "end_bucket": 100},
        {"name": "realtime", "first_bucket": 0, "end_bucket": 20},
    )
    assert read_tiers(path, "x").named("batch").policy == "batch"


def test_a_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"(?s)bad_tiers.*Is a directory"):
        read_tiers(tmp_path, "x")


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ([{"name": "a", "end_bucket": 20}], "buckets from 20 to 100 are nobody's"),
        ([{"name": "a", "end_bucket": 60}, {"name": "b", "first_bucket": 50}], "see b"),
        ([{"name": "a", "end_bucket": 60}, {"name": "a", "first_bucket": 60}], "one name"),
        ([{"name": "a", "policy": "hourly"}], "tiers.0.policy"),
        ([], "buckets from 0 to 100"),
    ],
)
def test_buckets_of_nobody_or_of_two_are_refused(
    tmp_path: Path, tiers: list[dict[str, object]], said: str
) -> None:
    with pytest.raises(Refused) as refused:
        read_tiers(write(tmp_path / "tiers.json", *tiers), "x")
    assert refused.value.code == "bad_tiers"
    assert said in refused.value.came


def test_an_unknown_tier_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(Refused) as refused:
        single_tier("realtime").named("hourly")
    assert "realtime" in refused.value.expected
