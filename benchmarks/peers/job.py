"""The job that every peer does: merge an event into its Pin's entry, embed, write one row per Pin."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from .tower_numpy import NumpyTower

Entry = dict[str, Any]
CONTENT_DIMENSION = 48

SOURCE, TARGET, PARTITIONS = "pin.changed.v1", "pin.embedded.v1", 32


def merge(entry: Entry, event: Entry) -> None:
    """Set what the event sets."""
    entry.update((name, one) for name, one in event.items() if one is not None)


def merge_all(states: dict[int, Entry], values: Iterable[bytes]) -> list[Entry]:
    """Fold JSON events into `states`; the entries that they touched, each once."""
    touched: dict[int, Entry] = {}
    for value in values:
        event = orjson.loads(value)
        entry = states.setdefault(event["pin_id"], {})
        entry.update(event)
        touched[event["pin_id"]] = entry
    return list(touched.values())


def rows(tower: NumpyTower, entries: Sequence[Entry]) -> list[tuple[bytes, bytes]]:
    """(key, value) of the entries' rows for pin.embedded.v1, from one forward of the tower."""
    vectors = tower.embed(entries, _content(entries)).astype("<f2")
    return [
        (key(entry["pin_id"], tower.version), orjson.dumps(_row(entry, vector, tower.version)))
        for entry, vector in zip(entries, vectors, strict=True)
    ]


def embedded(tower: NumpyTower, entry: Entry) -> Entry:
    """One entry's row for pin.embedded.v1 as plain data, from one forward of the tower."""
    (vector,) = tower.embed([entry], _content([entry])).astype("<f2")
    return _row(entry, vector, tower.version)


def key(pin_id: int, version: str) -> bytes:
    """Message key of a row."""
    return f"{pin_id}:{version[:16]}".encode()


def _content(entries: Sequence[Entry]) -> npt.NDArray[np.float32]:
    given = [entry["content_embedding"] for entry in entries]
    if all(isinstance(one, str) for one in given):
        packed = np.frombuffer(b"".join(map(base64.b64decode, given)), "<f2")
        return packed.reshape(len(given), CONTENT_DIMENSION).astype(np.float32)
    return np.array(given, "<f2").astype(np.float32)


def _row(entry: Entry, vector: npt.NDArray[np.float16], version: str) -> Entry:
    row = entry | {"vector": base64.b64encode(vector.tobytes()).decode(), "tower_version": version}
    del row["content_embedding"]
    return row
