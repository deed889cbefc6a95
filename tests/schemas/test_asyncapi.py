"""The AsyncAPI document: every reference leads somewhere, every topic is in it, real messages fit it.

That the checked-in file is the present one is proved beside the other schemas (`test_compatibility.py`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from schemas.asyncapi import OPERATIONS, asyncapi_document
from schemas.topics import DEAD_LETTERED, TOPICS
from tests.schemas.checked_in import ASYNCAPI, ROOT

DOCUMENT: dict[str, Any] = yaml.safe_load(ASYNCAPI.read_text("utf-8"))
FIXTURES = sorted((ROOT / "tests" / "fixtures" / "events").glob("*.json"))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolved(reference: str) -> Any:
    """What a JSON pointer into the document leads to. Raises KeyError when that is nothing."""
    assert reference.startswith("#/"), f"{reference} leads out of the document"
    found: Any = DOCUMENT
    for step in reference[2:].split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def test_the_file_is_the_document() -> None:
    assert asyncapi_document(DOCUMENT["info"]["version"], 1) == DOCUMENT


def test_it_says_what_it_is() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    assert DOCUMENT.keys() <= {
        "asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"
    }  # fmt: skip


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))

    assert len(found) > 100
    for one in found:
        assert resolved(one)


def test_every_topic_and_every_dead_letter_topic_is_a_channel() -> None:
    assert {one["address"] for one in DOCUMENT["channels"].values()} == {
        *TOPICS,
        *(topic.dlq for topic in DEAD_LETTERED),
    }
    assert all(name == one["address"] for name, one in DOCUMENT["channels"].items())


@pytest.mark.parametrize("name", TOPICS)
def test_a_channel_is_kept_and_cut_up_as_its_topic_is(name: str) -> None:
    # NOTE: deferred so that collecting these tests does not need a Kafka client.
    from streams.kafka import _topic_config  # noqa: PLC0415

    kafka = DOCUMENT["channels"][name]["bindings"]["kafka"]
    configuration = kafka["topicConfiguration"]

    assert kafka["partitions"] == TOPICS[name].partitions
    assert _topic_config(TOPICS[name]) == {
        option: ",".join(value) if isinstance(value, list) else str(value)
        for option, value in configuration.items()
    }


def test_dead_letters_are_kept_for_ever() -> None:
    for topic in DEAD_LETTERED:
        kafka = DOCUMENT["channels"][topic.dlq]["bindings"]["kafka"]
        assert kafka["topicConfiguration"] == {"cleanup.policy": ["delete"], "retention.ms": -1}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_real_message_fits_the_payload_of_its_channel(path: Path) -> None:
    fixture = json.loads(path.read_text("utf-8"))
    (message,) = DOCUMENT["channels"][fixture["topic"]]["messages"].values()
    payload = resolved(message["$ref"])["payload"]["$ref"]

    schema = {"$ref": payload, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema).validate(json.loads(fixture["encoded"]))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({})


def test_every_message_says_its_key_and_what_it_is() -> None:
    for topic in TOPICS.values():
        message = DOCUMENT["components"]["messages"][topic.value.__name__]
        assert (
            message["bindings"]["kafka"]["key"]["description"]
            == f"{topic.key}, as ASCII text; hashed with murmur2"
        )
        assert message["summary"] and message["contentType"] == "application/json"


def test_every_operation_is_about_a_message_of_its_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in ("send", "receive")
        (message,) = operation["messages"]
        assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_every_topic_is_used_and_what_is_received_can_be_dead_lettered() -> None:
    used = {topic for actions in OPERATIONS.values() for _, topic in actions}
    # Training rows leave the system: whoever trains reads them.
    assert used == set(TOPICS)
    sent = {
        one["channel"]["$ref"].rpartition("/")[2]
        for one in DOCUMENT["operations"].values()
        if one["action"] == "send"
    }
    received = {topic for actions in OPERATIONS.values() for action, topic in actions if action == "receive"}
    assert {topic.dlq for topic in DEAD_LETTERED if topic.name in received} <= sent


def test_what_nobody_here_sends_comes_from_other_teams() -> None:
    sent = {topic for actions in OPERATIONS.values() for action, topic in actions if action == "send"}

    assert set(TOPICS) - sent == {"pin.changed.v1", "visit.observed.v1", "engagement.observed.v1"}


def test_what_ship_cannot_send_goes_to_the_dead_letters_of_its_topics() -> None:
    assert {name for name in DOCUMENT["operations"] if name.startswith("ship.send.")} == {
        "ship.send.ranking.logged.v1",
        "ship.send.ranking.logged.v1.dlq",
        "ship.send.release.published.v1",
        "ship.send.release.published.v1.dlq",
    }


def _written_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Names of all headers that are put on a letter, on its mark, and on the message that is put back."""
    from schemas.errors import DeadLetterReason  # noqa: PLC0415
    from streams.dead_letters import CUT, letter_headers  # noqa: PLC0415
    from streams.kafka import KafkaSettings  # noqa: PLC0415
    from streams.letter_replay import KafkaLetterSender  # noqa: PLC0415
    from streams.letters import parse_letter  # noqa: PLC0415
    from streams.sources import DeadLetter  # noqa: PLC0415
    from streams.topic_reader import Record  # noqa: PLC0415

    letter = DeadLetter("pin.changed.v1", 0, 0, 0, 0, b"", b"", DeadLetterReason.DECODE_ERROR, "x", "v")
    headers = letter_headers(letter, "worker-0", None)
    sent = list(headers)
    monkeypatch.setattr(KafkaLetterSender, "_send", lambda _, *arguments: sent.extend(arguments[3]))
    lying = parse_letter(Record("pin.changed.v1.dlq", 0, 0, 0, b"", b"", headers))
    sender = KafkaLetterSender(KafkaSettings())
    sender.put_back(lying, 1)
    sender.mark(lying)
    yield CUT
    yield from (name for name, _ in sent)
    yield from _shipped_headers(tmp_path)


def _shipped_headers(root: Path) -> Iterator[str]:
    from tests.streams.test_shipping import World  # noqa: PLC0415

    world = World(root)
    world.log(tail=b"{\n")
    world.shipper().ship_once()
    for headers in world.sender.headers:
        yield from headers


def test_the_letters_headers_are_those_that_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = set(_written_headers(monkeypatch, tmp_path))

    assert written >= {"x-dlq-reason", "x-dlq-file", "x-dlq-replayed", "x-dlq-place", "x-dlq-attempts"}
    assert written == set(DOCUMENT["components"]["schemas"]["DeadLetterHeaders"]["properties"])
