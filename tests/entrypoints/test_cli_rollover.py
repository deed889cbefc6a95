"""`skewless embed`, `snapshots` and `rollover` as processes, where they need no Kafka."""

import json
from pathlib import Path

import pytest

from entrypoints.settings import Settings
from models.live_towers import read_live_towers, write_live_towers
from schemas.errors import Refused
from schemas.file_locks import held_alone
from tests.entrypoints.with_broker import skewless
from tests.entrypoints.world import save_tower

NOWHERE = "127.0.0.1:9"


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    made = [save_tower(tmp_path, seed).tower_version for seed in (1, 2)]
    write_live_towers(tmp_path / "towers", made[:1])
    return made


def test_a_second_cutter_of_a_tier_is_refused(tmp_path: Path, versions: list[str]) -> None:
    with held_alone(Settings.load(data_dir=tmp_path).cutter_lock("realtime"), Refused("", "", "", "")):
        done = skewless("snapshots", broker=NOWHERE, data_dir=tmp_path)

    assert done.returncode == 1 and "cutter_running" in done.stderr


def test_a_batch_tier_has_no_cutter(tmp_path: Path, versions: list[str]) -> None:
    (tmp_path / "tiers.json").write_text(
        json.dumps({"tiers": [{"name": "realtime", "policy": "batch", "first_bucket": 0, "end_bucket": 100}]})
    )

    done = skewless("snapshots", broker=NOWHERE, data_dir=tmp_path)

    assert done.returncode == 1 and "skewless embed" in done.stderr


def test_a_rollover_is_begun_shown_and_aborted(tmp_path: Path, versions: list[str]) -> None:
    def run(*arguments: str) -> object:
        done = skewless("rollover", *arguments, "--json", broker=NOWHERE, data_dir=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("status") == {"state": "none"}
    started = run("start", "--tower", versions[1][:10], "--reason", "week 32")
    assert isinstance(started, dict) and started["candidate"] == versions[1]
    assert read_live_towers(tmp_path / "towers") == versions
    shown = run("status")
    assert isinstance(shown, dict)
    assert (shown["state"], shown["reason"]) == ("under way", "week 32")
    assert "cutter" in shown["tiers"]["realtime"]["missing"]
    table = skewless("rollover", "status", broker=NOWHERE, data_dir=tmp_path)
    assert table.returncode == 0 and "under way" in table.stdout
    refused = skewless("rollover", "finish", "--tower", versions[1], broker=NOWHERE, data_dir=tmp_path)
    assert refused.returncode == 1 and "no snapshot of tower" in refused.stderr
    run("abort", "--tower", versions[1])
    assert read_live_towers(tmp_path / "towers") == versions[:1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("embed", "--shard", "4/4"), 2, "from 0 to n-1"),
        (("embed", "--shard", "one"), 2, "from 0 to n-1"),
        (("embed", "--every", "60"), 2, "--every is for batch tiers"),
        (("embed", "--tier", "slow"), 1, "unknown_tier"),
        (("embed", "--tower", "ffff"), 1, "unknown_tower"),
        (("rollover", "start", "--tower", "ffff"), 1, "unknown_tower"),
    ],
)
def test_wrong_use_is_refused_with_what_helps(
    tmp_path: Path, versions: list[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = skewless(*arguments, broker=NOWHERE, data_dir=tmp_path)

    assert done.returncode == code
    assert said in " ".join(done.stderr.split())


def test_a_realtime_tier_is_not_embedded_with_a_tower_that_is_not_live(
    tmp_path: Path, versions: list[str]
) -> None:
    done = skewless("embed", "--tower", versions[1], broker=NOWHERE, data_dir=tmp_path)

    assert done.returncode == 1
    assert "not_live" in done.stderr and "rollover start" in done.stderr
