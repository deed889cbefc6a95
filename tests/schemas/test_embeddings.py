import pytest
from pydantic import ValidationError

from schemas.embeddings import embedded_key

from .examples import VERSION_A, pin_embedded


def test_revision_grows_with_either_offset() -> None:
    assert pin_embedded(changed_offset=5, aggregated_offset=2).revision == 7
    assert pin_embedded(changed_offset=-1, aggregated_offset=-1).revision == -2


def test_the_key_keeps_one_row_per_pin_and_tower() -> None:
    assert embedded_key(7, VERSION_A) == b"7:aaaaaaaaaaaaaaaa"


@pytest.mark.parametrize("version", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_a_tower_version_is_64_hex_digits(version: str) -> None:
    with pytest.raises(ValidationError, match="tower_version"):
        pin_embedded(tower_version=version)
