"""What does not fit together never becomes a live release."""

import numpy as np
import pytest

from schemas.errors import Refused
from serving.live_release import Assembly, assemble

from .fakes import DIMENSION, FakeIndex, FakeTower, fake_index, pins, version

TOWER, OTHER = version("tower"), version("other")
INPUTS = ("price", "content")


def test_a_closed_release_keeps_nothing_of_its_size(assembly: Assembly) -> None:
    release = assemble(fake_index("r1", TOWER, pins(5)), FakeTower(TOWER), INPUTS, assembly)
    assert release.local.base() is not None
    release.close()
    assert (len(release.local), release.local.base()) == (0, None)


def refusal(index: FakeIndex, tower: FakeTower, assembly: Assembly) -> str:
    with pytest.raises(Refused) as caught:
        assemble(index, tower, INPUTS, assembly)
    assert caught.value.expected
    assert caught.value.came
    assert caught.value.fix
    return caught.value.code


def test_parts_that_fit_are_assembled_and_warm(assembly: Assembly) -> None:
    release = assemble(fake_index("r1", TOWER, pins(5)), FakeTower(TOWER), INPUTS, assembly)
    assert release.release_id == "r1"
    assert release.coverage == {"price": 1.0, "content": 1.0}
    assert release.version_mix == {TOWER: 5}


def test_a_query_tower_of_another_version_is_refused(assembly: Assembly) -> None:
    assert refusal(fake_index("r1", TOWER, pins(5)), FakeTower(OTHER), assembly) == "tower_version_mismatch"


def test_pins_of_another_version_are_refused(assembly: Assembly) -> None:
    index = fake_index("r1", TOWER, pins(5))
    index.tower_version = OTHER
    assert refusal(index, FakeTower(TOWER), assembly) == "tower_version_mismatch"


def test_another_registry_is_refused(assembly: Assembly) -> None:
    index = fake_index("r1", TOWER, pins(5))
    index.manifest = index.manifest.model_copy(update={"registry_hash": version("registry 2")})
    assert refusal(index, FakeTower(TOWER), assembly) == "registry_mismatch"


def test_another_dimension_is_refused(assembly: Assembly) -> None:
    tower = FakeTower(TOWER, DIMENSION + 1)
    assert refusal(fake_index("r1", TOWER, pins(5)), tower, assembly) == "dimension_mismatch"


def test_missing_rows_are_refused(assembly: Assembly) -> None:
    index = fake_index("r1", TOWER, pins(5))
    index.vectors = index.vectors[:4]
    assert refusal(index, FakeTower(TOWER), assembly) == "row_count_mismatch"


def test_vectors_that_are_not_finite_are_refused(assembly: Assembly) -> None:
    index = fake_index("r1", TOWER, pins(5), np.full(5, np.nan))
    assert refusal(index, FakeTower(TOWER), assembly) == "not_finite"
