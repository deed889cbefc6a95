"""What every RecordStore promises, run on each of them; then what only a store on disk can promise."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.store import MemoryStore, RecordStore, RocksStore
from schemas.errors import Refused
from streams.state_cache import CachedStore

DTYPE = np.dtype([("id", "<i8"), ("value", "<f4", (2,)), ("flag", "u1")])
Records = npt.NDArray[Any]


def _records(ids: list[int], value: float = 1.0) -> Records:
    records = np.zeros(len(ids), DTYPE)
    records["id"] = ids
    records["value"] = value
    return records


def _ids(*ids: int) -> npt.NDArray[np.int64]:
    return np.array(ids, np.int64)


def _put(store: RecordStore, *ids: int, value: float = 1.0, tail: bytes = b"", **meta: bytes) -> None:
    store.put_many(_ids(*ids), _records(list(ids), value), [tail] * len(ids), meta or None)


@pytest.fixture(params=["memory", "rocks", "cached", "cached in little memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordStore]:
    make: dict[str, Callable[[], RecordStore]] = {
        "memory": lambda: MemoryStore(DTYPE),
        "rocks": lambda: RocksStore(tmp_path / "db", DTYPE),
        "cached": lambda: CachedStore(RocksStore(tmp_path / "db", DTYPE)),
        "cached in little memory": lambda: CachedStore(MemoryStore(DTYPE), capacity=2),
    }
    made = make[request.param]()
    yield made
    made.close()


def test_records_come_back_in_the_order_of_the_ids_asked_for(store: RecordStore) -> None:
    _put(store, 1, value=1.5, tail=b"one")
    _put(store, 2, value=2.5, tail=b"two")
    records, found, tails = store.get_many(_ids(2, 9, 1, 2))
    assert records["id"].tolist() == [2, 0, 1, 2]
    assert records["value"][:, 0].tolist() == [2.5, 0.0, 1.5, 2.5]
    assert found.tolist() == [True, False, True, True]
    assert tails == [b"two", b"", b"one", b"two"]


def test_records_that_are_read_can_be_changed_without_changing_the_store(store: RecordStore) -> None:
    _put(store, 1)
    records, _, _ = store.get_many(_ids(1))
    records["flag"] = 9
    assert store.get_many(_ids(1))[0]["flag"].tolist() == [0]


def test_the_last_write_wins_with_its_tail(store: RecordStore) -> None:
    _put(store, 1, value=1.0, tail=b"a long tail")
    _put(store, 1, value=2.0)
    records, _, tails = store.get_many(_ids(1))
    assert records["value"].tolist() == [[2.0, 2.0]] and tails == [b""]


def test_metadata_is_apart_from_records_and_absent_until_written(store: RecordStore) -> None:
    assert store.get_meta("offset") is None
    _put(store, 1, offset=b"5")
    _put(store, offset=b"6")
    assert store.get_meta("offset") == b"6"
    assert [len(records) for records, _ in store.scan()] == [1]


def test_nothing_asked_for_is_nothing_found(store: RecordStore) -> None:
    records, found, tails = store.get_many(_ids())
    assert len(records) == 0 and found.tolist() == [] and tails == []
    assert records.dtype == DTYPE
    assert list(store.scan()) == []


def test_scan_goes_up_by_id_in_chunks(store: RecordStore) -> None:
    _put(store, 256, 2, 2**62, 255, 0, tail=b"x", layout_like=b"y")
    chunks = [(records["id"].tolist(), tails) for records, tails in store.scan(chunk=2)]
    assert chunks == [([0, 2], [b"x"] * 2), ([255, 256], [b"x"] * 2), ([2**62], [b"x"])]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.dictionaries(st.integers(0, 2**63 - 1), st.binary(max_size=9), max_size=8), max_size=6
    )
)
def test_a_store_is_a_dictionary(
    batches: list[dict[int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model: dict[int, bytes] = {}
    stores: list[RecordStore] = [
        MemoryStore(DTYPE),
        RocksStore(tmp_path_factory.mktemp("rocks") / "db", DTYPE),
    ]
    for batch in batches:
        model |= batch
        for store in stores:
            store.put_many(_ids(*batch), _records(list(batch)), list(batch.values()))
    for store in stores:
        ids = [int(i) for records, _ in store.scan(chunk=3) for i in records["id"]]
        tails = [tail for _, some in store.scan(chunk=3) for tail in some]
        assert dict(zip(ids, tails, strict=True)) == model
        assert ids == sorted(model)
        store.close()


def test_a_batch_and_its_metadata_are_there_after_reopening(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "db", DTYPE) as store:
        _put(store, 1, 2, tail=b"t", offset=b"7")
    with RocksStore(tmp_path / "db", DTYPE) as store:
        assert store.get_many(_ids(1, 2))[1].all()
        assert store.get_meta("offset") == b"7"


def test_records_of_another_layout_are_refused_and_left_alone(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "db", DTYPE) as store:
        _put(store, 1)
    other = np.dtype([("id", "<i8"), ("value", "<f8", (2,)), ("flag", "u1")])
    for read_only in (False, True):
        with pytest.raises(Refused) as caught:
            RocksStore(tmp_path / "db", other, read_only=read_only)
        assert caught.value.code == "record_layout"
    with RocksStore(tmp_path / "db", DTYPE) as store:
        assert store.get_many(_ids(1))[1].tolist() == [True]


def test_readers_see_what_was_written_before_they_opened_and_cannot_write(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "db", DTYPE) as writer:
        _put(writer, 1)
        with RocksStore(tmp_path / "db", DTYPE, read_only=True) as reader:
            assert reader.get_many(_ids(1))[1].tolist() == [True]
            _put(writer, 2)
            assert reader.get_many(_ids(2))[1].tolist() == [False]
            with pytest.raises(Exception, match=r"[Rr]ead.?only"):
                _put(reader, 3)


def test_two_writers_cannot_open_one_store(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "db", DTYPE), pytest.raises(Exception, match=r"[Ll]ock"):
        RocksStore(tmp_path / "db", DTYPE)


_WRITER = """
import sys
import numpy as np
from pathlib import Path
from features.store import RocksStore
from tests.contracts.test_record_store import DTYPE, _records
store = RocksStore(Path(sys.argv[1]), DTYPE)
batch = 0
while True:
    ids = np.arange(batch * 10, batch * 10 + 10)
    store.put_many(ids, _records(ids.tolist(), float(batch)), [b"t"] * 10, {"batch": str(batch).encode()})
    print(batch, flush=True)
    batch += 1
"""


def test_a_killed_writer_loses_no_acknowledged_batch_and_tears_none(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    for _ in range(3):
        directory = tmp_path / f"db{_}"
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(directory)], stdout=subprocess.PIPE, cwd=root
        )
        assert writer.stdout is not None
        with writer.stdout:
            acknowledged = -1
            while acknowledged < 200:
                acknowledged = int(writer.stdout.readline())
            writer.kill()
            acknowledged = max([acknowledged, *map(int, writer.stdout.read().split(b"\n")[:-1])])
        writer.wait()
        with RocksStore(directory, DTYPE) as store:
            written = int(store.get_meta("batch") or -1)
            assert written >= acknowledged
            records = np.concatenate([records for records, _ in store.scan()])
            assert records["id"].tolist() == list(range(10 * (written + 1)))
            assert (records["value"][:, 0] == records["id"] // 10).all()


def test_a_store_that_is_open_already_is_refused_for_writing(tmp_path: Path) -> None:
    with RocksStore(tmp_path, DTYPE), pytest.raises(Refused) as refused:
        RocksStore(tmp_path, DTYPE)

    assert refused.value.code == "state_in_use"
    assert str(tmp_path) in refused.value.came
