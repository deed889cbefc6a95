import numpy as np
import pytest

from features.pin_state import STATUS_CODES
from schemas.errors import Refused
from schemas.tiers import Tier
from streams.batch_embedding import FAILED, embed_states
from streams.batch_states import PartitionReader, PartitionStates
from streams.embedded_batches import EmbeddedDecoder, Message
from streams.embedded_rows import embedded_rows
from tests.fakes import FakePinTower
from tests.streams.states_in_memory import EPOCH_MS, StatesInMemory


def states(*pins: int, **fields: int) -> PartitionStates:
    source = StatesInMemory(1)
    for pin in pins:
        source.put(pin, revision=pin % 7, title=f"Crème {pin}", **fields)
    tier = Tier(name="batch", policy="batch")
    return PartitionReader(source, tier, lambda: False).read(0, 0, lambda rows: None)


def test_rows_are_those_that_a_worker_would_have_sent() -> None:
    tower, one = FakePinTower(), states(*range(40), status=0)

    embedded = embed_states(tower, 4, one, 7, lambda: False)

    output = tower.embed(one.records)
    sent = embedded_rows(tower.version, one.records, one.tails, output.vectors, output.input_mask)
    messages = [
        Message(0, place, EPOCH_MS, key.encode(), text.encode())
        for place, (key, text) in enumerate(zip(sent.keys, sent.values, strict=True))
    ]
    batch = EmbeddedDecoder().decode(messages, {tower.version: 4}).batch
    assert (embedded.rows.attributes == batch.attributes).all()
    assert embedded.rows.vectors.tobytes() == b"".join(batch.vectors)
    assert embedded.rows.titles.to_pylist() == list(batch.titles)
    assert set(embedded.rows.attributes["status"].tolist()) == {STATUS_CODES["active"]}


def test_pins_that_the_tower_cannot_embed_are_named_and_the_others_embedded() -> None:
    tower = FakePinTower(poison=frozenset({3, 11}))

    embedded = embed_states(tower, 4, states(*range(20)), 8, lambda: False)

    assert embedded.failed == {3: FAILED, 11: FAILED}
    assert embedded.rows.attributes["pin_id"].tolist() == [pin for pin in range(20) if pin not in (3, 11)]
    assert len(embedded.rows.titles) == len(embedded.rows.vectors) == 18


def test_a_partition_of_one_pin_that_fails_is_empty_and_has_the_towers_dimension() -> None:
    embedded = embed_states(FakePinTower(poison=frozenset({3})), 4, states(3), 8, lambda: False)

    assert embedded.rows.vectors.shape == (0, 4)
    assert embedded.failed == {3: FAILED}


def test_a_tower_that_fails_on_all_of_them_is_refused() -> None:
    tower = FakePinTower(poison=frozenset(range(20)))

    with pytest.raises(Refused) as refused:
        embed_states(tower, 4, states(*range(20)), 64, lambda: False)

    assert refused.value.code == "tower_broken"


def test_the_batch_size_changes_nothing() -> None:
    one = states(*range(30))

    rows = [embed_states(FakePinTower(), 4, one, size, lambda: False).rows for size in (1, 7, 64)]

    assert all(np.array_equal(rows[0].vectors, other.vectors) for other in rows)
