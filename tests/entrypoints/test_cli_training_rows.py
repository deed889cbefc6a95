import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.impressions import ImpressionAttributed
from streams.embedded_broker import EmbeddedBroker
from tests.datasets.test_attributed_rows import row
from tests.entrypoints.with_broker import produce, skewless
from tests.streams.raw_events import bought


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker() as running:
        yield running.bootstrap_servers


def keyed(one: ImpressionAttributed) -> tuple[str, ImpressionAttributed]:
    return f"{one.request_id}:{one.pin_id}", one


def test_each_impression_is_one_row_the_newest_with_its_users_history(broker: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    other = row(200).model_copy(update={"request_id": "r2"})
    produce(broker, keyed(row(99)), keyed(row(100)), keyed(other))
    produce(broker, *(("1", bought(at_ms)) for at_ms in (90, 100, 150)))

    done = skewless("training-rows", "--out", str(out), "--json", broker=broker, data_dir=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "file": str(out),
        "rows": 2,
        "converted": 2,
        "actions": 3,
        "unreadable": 0,
        "snapshots_missing": 1,
    }
    told = {one["request_id"]: one["history_occurred_at_ms"] for one in pq.read_table(out).to_pylist()}
    assert told == {"r1": [90], "r2": [90, 100, 150]}


def test_the_columns_are_listed_without_a_broker(tmp_path: Path) -> None:
    done = skewless("training-rows", "--lineage", "--json", broker="", data_dir=tmp_path)

    assert [one["column"] for one in json.loads(done.stdout)][:2] == ["request_id", "pin_id"]


def test_without_a_file_it_is_wrong_usage(tmp_path: Path) -> None:
    assert skewless("training-rows", broker="", data_dir=tmp_path).returncode == 2
