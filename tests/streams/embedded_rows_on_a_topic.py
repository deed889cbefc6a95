"""pin.embedded.v1 in memory, and the little that a cutter needs around it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.codec import encode
from schemas.embeddings import embedded_key
from schemas.manifests import Calibration, SnapshotManifest, TowerManifest
from schemas.vectors import encode_fp16
from streams.cut_policy import CutPolicy, EventTimeCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings, Letters
from streams.embedded_batches import Message
from tests.schemas.examples import VERSION_A, pin_embedded

HOUR_MS = 3_600_000
EPOCH_MS = 400_000 * HOUR_MS
DIMENSION = 4


def tower(
    version: str = VERSION_A, dimension: int = DIMENSION, pin_inputs: Sequence[str] = ("price", "brand")
) -> TowerManifest:
    """A tower, by default of 4 dimensions, whose Pin inputs are price and brand."""
    return TowerManifest(
        tower_version=version,
        family="two_tower",
        dimension=dimension,
        normalised=True,
        registry_hash="c" * 64,
        query_inputs=[],
        pin_inputs=list(pin_inputs),
        config={},
        calibration=Calibration(),
        trained_from_ms=0,
        trained_until_ms=0,
        seed=0,
        files=[],
    )


def row(
    pin: int, revision: int = 0, *, hour: float = 0.0, version: str = VERSION_A, came_in: float | None = None
) -> tuple[bytes, bytes]:
    """Key and value of Pin `pin` after `revision` changes, whose newest happened at `hour`."""
    message = pin_embedded(
        pin_id=pin,
        tower_version=version,
        vector=encode_fp16([revision % 64, pin % 64, 1.0, 0.5]),
        changed_offset=revision,
        aggregated_offset=0,
        occurred_at_ms=EPOCH_MS + int(hour * HOUR_MS),
        ingested_at_ms=EPOCH_MS + int((hour if came_in is None else came_in) * HOUR_MS),
        title=f"Pin {pin}",
        bid_micros=revision,
    )
    return embedded_key(pin, version), encode(message)


class MemoryTopic:
    """pin.embedded.v1 with two partitions; `seed` decides how their messages interleave."""

    def __init__(self, seed: int = 0) -> None:
        self.log: dict[int, list[tuple[bytes | None, bytes | None]]] = {0: [], 1: []}
        self.committed: list[dict[int, int]] = []
        self._at = {0: 0, 1: 0}
        self._random = random.Random(seed)

    def put(self, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        """Append one message; by default to the partition of its Pin."""
        pin = int(key.split(b":")[0]) if key and partition is None else 0
        self.log[pin % 2 if partition is None else partition].append((key, value))

    def ends(self) -> dict[int, int]:
        return {number: len(messages) for number, messages in self.log.items()}

    def read_from(self, positions: dict[int, int]) -> None:
        self._at = dict(positions)

    def read(self, count: int, timeout_seconds: float) -> list[Message]:
        read: list[Message] = []
        while len(read) < count:
            ready = [number for number in self.log if self._at[number] < len(self.log[number])]
            if not ready:
                break
            number = self._random.choice(ready)
            key, value = self.log[number][self._at[number]]
            read.append(Message(number, self._at[number], EPOCH_MS, key, value))
            self._at[number] += 1
        return read

    def lag(self, positions: dict[int, int]) -> int:
        return sum(len(messages) - positions[number] for number, messages in self.log.items())

    def commit(self, positions: dict[int, int]) -> None:
        self.committed.append(dict(positions))


@dataclass
class Letterbox:
    """Keeps dead letters; `wait` empties the queue, as acknowledging does."""

    queued: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def produce_letters(self, letters: Letters, /) -> None:
        self.queued += [f"{one.partition}/{one.offset} {one.reason.value}" for one, _ in letters]

    def wait(self) -> None:
        self.sent += self.queued
        self.queued = []


@dataclass
class Room:
    """Everything around a cutter; `cutter` starts one, as a new process would."""

    root: Path
    topic: MemoryTopic = field(default_factory=MemoryTopic)
    live: list[TowerManifest] = field(default_factory=lambda: [tower()])
    now_ms: int = EPOCH_MS
    letters: Letterbox = field(default_factory=Letterbox)
    told: list[SnapshotManifest] = field(default_factory=list)

    def cutter(self, policy: CutPolicy | None = None, batch_size: int = 7) -> Cutter:
        surroundings = CutterSurroundings(
            live=lambda: self.live,
            clock_ms=lambda: self.now_ms,
            outlet=self.letters,
            on_snapshot=self.told.append,
        )
        cutter = Cutter(
            self.topic,
            CutterSettings(self.root, batch_size=batch_size),
            policy or EventTimeCut(),
            surroundings,
        )
        cutter.start()
        return cutter


def read_all(cutter: Cutter) -> None:
    """Read until nothing comes."""
    while cutter.step():
        pass
