"""pin.features.v1 and its checkpoints in memory, as the batch embedder reads them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from features.pin_state import PIN_RECORD, STATUS_CODES, Records, empty_records
from schemas.manifests import TowerManifest
from schemas.states import StateCheckpointed
from schemas.topics import PIN_FEATURES
from streams.state_rows import feature_rows
from streams.topic_reader import Record, Span
from tests.schemas.examples import VERSION_A
from tests.streams.embedded_rows_on_a_topic import tower

EPOCH_MS = 400_000 * 3_600_000


def state(pin: int, revision: int = 0, partition: int = 0, **fields: int) -> Records:
    """One state of a Pin after `revision` changes."""
    records = empty_records(np.array([pin], np.int64))
    records["changed_offset"], records["partition"] = revision, partition
    records["price_micros"] = 1_000_000 + revision
    records["occurred_at_ms"] = records["ingested_at_ms"] = EPOCH_MS + revision
    records["status"] = STATUS_CODES["active"]
    for name, value in fields.items():
        records[name] = value
    assert records.dtype == PIN_RECORD
    return records


def value(records: Records, title: str = "") -> bytes:
    """Its row."""
    tail = f'"{title}"'.encode() if title else b""
    return feature_rows(records, [tail]).values[0].encode()


def checkpoint(partition: int, *live: str, state_offset: int = 0) -> StateCheckpointed:
    """A worker's word that what comes is embedded with these towers."""
    return StateCheckpointed(
        state_topic=PIN_FEATURES.name,
        partition=partition,
        state_offset=state_offset,
        covers={},
        live=list(live),
        worker="worker-0",
        occurred_at_ms=EPOCH_MS,
    )


def tower_manifest(version: str = VERSION_A, dimension: int = 4) -> TowerManifest:
    """The manifest of a `FakePinTower`."""
    return tower(version, dimension, ["pin_id", "price"])


@dataclass
class StatesInMemory:
    """A log per partition. A compacted row is None in it; `on_read` runs before each batch is handed out."""

    partitions: int = 2
    log: dict[int, list[bytes | None]] = field(default_factory=dict)
    said: dict[int, StateCheckpointed] = field(default_factory=dict)
    on_read: Callable[[int], None] = lambda partition: None
    batch: int = 3

    def __post_init__(self) -> None:
        for number in range(self.partitions):
            self.log.setdefault(number, [])

    def put(self, pin: int, revision: int = 0, title: str = "", **fields: int) -> None:
        """Append a state to the partition of its Pin."""
        number = pin % self.partitions
        self.log[number].append(value(state(pin, revision, number, **fields), title))

    def spans(self) -> Mapping[int, Span]:
        return {number: (0, len(rows)) for number, rows in self.log.items()}

    def rows(self, partition: int, span: Span) -> Iterator[list[Record]]:
        for start in range(*span, self.batch):
            self.on_read(partition)
            offsets = range(start, min(start + self.batch, span[1]))
            yield [
                Record(PIN_FEATURES.name, partition, offset, EPOCH_MS, None, self.log[partition][offset], [])
                for offset in offsets
                if self.log[partition][offset] is not None
            ]

    def checkpoints(self) -> Mapping[int, StateCheckpointed]:
        return self.said
