"""Claims that a batch breaks are taken back, behind everything that still makes them; others cost nothing."""

import numpy as np
import pytest

from features.pin_state import PIN_RECORD
from features.store import MemoryStore
from schemas.codec import decode
from schemas.states import StateCheckpointed
from streams.backfill import Backfill
from streams.state_flush import FlushSettings, FlushSurroundings, StateFlush
from streams.state_rows import StateRows
from streams.tower_claims import TowerClaims
from tests.schemas.examples import VERSION_A, VERSION_B

SOURCE = "pin.changed.v1"
BOTH = [VERSION_A, VERSION_B]


class _World:
    """Partitions 0 and 1, of which an earlier owner has called both towers complete and live."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.said: dict[int, StateCheckpointed] = {}
        checkpoints = {
            number: StateCheckpointed(
                state_topic="pin.features.v1",
                partition=number,
                state_offset=0,
                covers={SOURCE: 0},
                embedded=BOTH,
                live=BOTH,
                worker="before",
                occurred_at_ms=0,
            )
            for number in (0, 1)
        }
        store = MemoryStore(PIN_RECORD)
        self.backfill = Backfill(store, 3)
        flush = StateFlush(
            store,
            FlushSettings("w", every_seconds=10.0, chunk_pins=4),
            FlushSurroundings(
                lambda partitions: dict.fromkeys(partitions, 0),
                self.backfill.embedded,
                lambda: 0.0,
                lambda: 7,
            ),
        )
        self.backfill.begin(checkpoints)
        flush.begin({(SOURCE, 0): 0, (SOURCE, 1): 0}, checkpoints, np.empty(0, np.int64))
        self.claims = TowerClaims(self.backfill, flush, lambda: self.done.append("settle"), self._produce)

    def _produce(self, rows: StateRows | None) -> bool:
        assert rows is not None
        self.done.append("produce")
        self.said |= {
            one.partition: one for one in (decode(StateCheckpointed, v.encode()) for v in rows.values)
        }
        return True


def test_no_partition_names_a_tower_that_the_next_batch_goes_without() -> None:
    world = _World()
    world.claims.retract([VERSION_A])
    assert world.done == ["settle", "settle", "produce", "settle"]
    assert [(one.embedded, one.live) for one in world.said.values()] == [([VERSION_A], [VERSION_A])] * 2
    world.claims.retract([VERSION_A])
    assert len(world.done) == 4


def test_a_partition_in_which_a_tower_lacks_a_row_does_not_call_it_complete() -> None:
    world = _World()
    world.claims.take_back({VERSION_B: frozenset({1})})
    assert world.done == ["settle", "settle", "produce", "settle"]
    assert {number: (one.embedded, one.live) for number, one in world.said.items()} == {
        1: ([VERSION_A], BOTH)
    }
    assert [world.backfill.embedded(number) for number in (0, 1)] == [BOTH, [VERSION_A]]


@pytest.mark.parametrize("lacking", [{}, {"c" * 64: frozenset({0, 1})}])
def test_what_no_checkpoint_claims_is_not_taken_back(lacking: dict[str, frozenset[int]]) -> None:
    world = _World()
    world.claims.retract(BOTH)
    world.claims.take_back(lacking)
    assert world.done == []
