from pathlib import Path

import numpy as np
import pytest
import torch

from features.definitions import registry
from features.pin_state import empty_records
from features.registry import Entity
from features.user_state import contexts, empty_users
from models.checkpoint import CheckpointNotes, save_checkpoint
from models.inputs import PinBatch
from models.predictor import CHUNK, PinTower, QueryTower, embed_pins, embed_queries
from models.towers import TowerConfig, TwoTower, fresh_towers
from schemas.errors import Refused, RetryableError
from schemas.manifests import Calibration
from tests.features.examples import random_records

ROUNDING = 1e-6
"""How far a Pin's vector may move with the batch it is embedded in: matrix products of other shapes."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("towers")
    notes = CheckpointNotes(registry().content_hash, 1, 2, 0, Calibration(slope=3.0, intercept=-4.0))
    model = fresh_towers(registry(), TowerConfig(dimension=16, hidden=32), seed=0)
    return root, save_checkpoint(root, model, notes).tower_version


@pytest.fixture(scope="module")
def pins(checkpoint: tuple[Path, str]) -> PinTower:
    return PinTower.load(*checkpoint, registry())


@pytest.fixture(scope="module")
def queries(checkpoint: tuple[Path, str]) -> QueryTower:
    return QueryTower.load(*checkpoint, registry())


def test_a_tower_says_what_it_is(checkpoint: tuple[Path, str], pins: PinTower, queries: QueryTower) -> None:
    assert pins.version == queries.version == checkpoint[1]
    assert pins.dimension == queries.dimension == 16
    assert pins.inputs[0] == "pin_id"
    assert "history_pins" in queries.inputs
    assert queries.calibration == Calibration(slope=3.0, intercept=-4.0)


def test_pin_vectors_have_unit_length(pins: PinTower) -> None:
    embedded = pins.embed(random_records(Entity.PIN, 50))
    assert embedded.vectors.dtype == np.float32
    assert np.abs(np.linalg.norm(embedded.vectors, axis=1) - 1).max() < 1e-6


def test_a_pins_vector_does_not_depend_on_its_batch(pins: PinTower) -> None:
    records = random_records(Entity.PIN, 8_192 + 100)
    together = pins.embed(records)
    for rows in (slice(0, 1), slice(7, 8), slice(100, 103), slice(8_190, 8_200), slice(1, 8_292)):
        apart = pins.embed(records[rows])
        assert np.abs(apart.vectors - together.vectors[rows]).max() <= ROUNDING
        assert (apart.input_mask == together.input_mask[rows]).all()


def test_the_input_mask_names_the_inputs_that_were_there(pins: PinTower) -> None:
    records = empty_records(np.array([5], np.int64))
    records["price_micros"] = 1_000_000
    mask = int(pins.embed(records).input_mask[0])
    named = {name for bit, name in enumerate(pins.inputs) if mask >> bit & 1}
    assert named == {"pin_id", "price"}


class _SmallDevice:
    """A model on a device that has memory for so many Pins at a time."""

    def __init__(self, model: TwoTower, most: int) -> None:
        self._whole, self._most = model.embed_pins, most
        self.tried: list[int] = []
        model.embed_pins = self._embed_pins  # type: ignore[method-assign]

    def _embed_pins(self, batch: PinBatch) -> torch.Tensor:
        self.tried.append(len(batch.ids))
        if len(batch.ids) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the manual.")
        return self._whole(batch)


@pytest.mark.parametrize("most", [1, 3, 700])
def test_what_a_device_has_no_memory_for_is_embedded_in_parts(most: int) -> None:
    model = fresh_towers(registry(), TowerConfig(dimension=16, hidden=32), seed=0)
    count = 20 if most < 10 else CHUNK + 100
    records = random_records(Entity.PIN, count)
    mask = np.where(np.arange(count) % 2, -1, 1)
    together = embed_pins(model, records, served_mask=mask)
    device = _SmallDevice(model, most)
    apart = embed_pins(model, records, served_mask=mask)
    assert max(device.tried) > most
    assert np.abs(apart.vectors - together.vectors).max() <= ROUNDING
    assert (apart.input_mask == together.input_mask).all()
    # Once it knows what fits it does not try more again: no forward of a half that was seen to fail.
    first_fit = next(n for n, tried in enumerate(device.tried) if tried <= most)
    assert most < 10 or len(device.tried) <= first_fit + -(-CHUNK // (most // 2)) + 1


def test_a_device_without_memory_for_one_pin_is_trouble_that_may_pass_and_no_fault_of_the_pin() -> None:
    model = fresh_towers(registry(), TowerConfig(dimension=16, hidden=32), seed=0)
    device = _SmallDevice(model, 0)
    with pytest.raises(RetryableError) as trouble:
        embed_pins(model, random_records(Entity.PIN, 5))
    assert device.tried == [5, 3, 2, 1]
    assert str(trouble.value) == (
        "cpu has no memory to embed a single Pin (CUDA out of memory. Tried to allocate 2.00 GiB.): "
        "free some, or embed elsewhere (SKEWLESS_DEVICE=cpu)"
    )


def test_no_pins_and_no_queries_give_no_vectors(pins: PinTower, queries: QueryTower) -> None:
    assert pins.embed(empty_records(np.zeros(0, np.int64))).vectors.shape == (0, 16)
    none = empty_users(np.zeros(0, np.int64))
    assert queries.embed(none, contexts(none, np.zeros(0, np.int64))).shape == (0, 16)


def test_query_vectors_have_the_length_of_the_inverse_temperature(queries: QueryTower) -> None:
    users, moments = random_records(Entity.USER, 40), random_records(Entity.CONTEXT, 40)
    for count in (1, 40):
        lengths = np.linalg.norm(queries.embed(users[:count], moments[:count]), axis=1)
        assert np.abs(lengths - 10).max() < 1e-4


def test_one_query_in_numpy_is_the_query_of_a_batch_in_torch(
    checkpoint: tuple[Path, str], queries: QueryTower
) -> None:
    users, moments = random_records(Entity.USER, 64), random_records(Entity.CONTEXT, 64)
    users[3] = empty_users(np.array([9], np.int64))[0]
    together = queries.embed(users, moments)
    for row in range(64):
        alone = queries.embed(users[row : row + 1], moments[row : row + 1])
        # Vectors of length 10, so ten times the rounding of a unit vector.
        assert np.abs(alone[0] - together[row]).max() <= 10 * ROUNDING


def test_a_user_without_history_gets_a_finite_vector(queries: QueryTower) -> None:
    user = empty_users(np.array([1], np.int64))
    assert np.isfinite(queries.embed(user, contexts(user, np.array([1_000], np.int64)))).all()


def test_a_vector_that_is_no_number_raises() -> None:
    model = fresh_towers(registry(), TowerConfig(dimension=8, hidden=8), seed=0)
    with torch.no_grad():
        model.query.out.bias[0] = float("nan")
    users = random_records(Entity.USER, 2)
    with pytest.raises(FloatingPointError, match="not finite"):
        embed_queries(model, users, random_records(Entity.CONTEXT, 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(checkpoint: tuple[Path, str]) -> None:
    with pytest.raises(Refused, match="no CUDA device"):
        PinTower.load(*checkpoint, registry(), device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_vectors_of_a_gpu_are_those_of_a_cpu(checkpoint: tuple[Path, str], pins: PinTower) -> None:
    records = random_records(Entity.PIN, 500)
    on_gpu = PinTower.load(*checkpoint, registry(), device="cuda").embed(records).vectors
    assert np.abs(on_gpu - pins.embed(records).vectors).max() < 1e-5
