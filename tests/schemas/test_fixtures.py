"""Old messages decode for ever: one encoded fixture of every schema version stays in the repository."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from schemas.codec import decode, encode
from schemas.topics import TOPICS

FIXTURES = Path(__file__).parent.parent / "fixtures" / "events"


def _fixtures() -> list[Path]:
    return sorted(FIXTURES.glob("*.json"))


def _read(path: Path) -> tuple[type[BaseModel], bytes, dict[str, Any]]:
    fixture = json.loads(path.read_text("utf-8"))
    return TOPICS[fixture["topic"]].value, fixture["encoded"].encode("utf-8"), fixture["decoded"]


def _known(came: Any, wanted: Any) -> Any:
    """`came` without the fields, at any depth, that `wanted` does not have."""
    if isinstance(wanted, dict):
        return {name: _known(came[name], wanted[name]) for name in wanted}
    if isinstance(wanted, list) and len(wanted) == len(came):
        return [_known(one, other) for one, other in zip(came, wanted, strict=True)]
    return came


@pytest.mark.parametrize("path", _fixtures(), ids=lambda path: path.stem)
def test_an_old_message_decodes_to_what_it_meant(path: Path) -> None:
    model, encoded, decoded = _read(path)
    came = decode(model, encoded).model_dump(mode="json")
    # Fields that were added since then are not in the fixture, and hold their defaults.
    assert _known(came, decoded) == decoded


@pytest.mark.parametrize("path", _fixtures(), ids=lambda path: path.stem)
def test_an_old_message_survives_being_written_again(path: Path) -> None:
    model, encoded, _ = _read(path)
    message = decode(model, encoded)
    assert decode(model, encode(message)) == message


def test_every_topic_has_a_fixture() -> None:
    assert {json.loads(path.read_text("utf-8"))["topic"] for path in _fixtures()} == set(TOPICS)


def test_vectors_of_the_fixtures_are_little_endian_fp16() -> None:
    _, _, decoded = _read(FIXTURES / "pin.embedded.v1.full.json")
    assert base64.b64decode(decoded["vector"]) == b"\x00\x38\x00\xb4\x00\x00\x00\x3c"
