import json

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from schemas.events import PinChanged
from schemas.field_numbers import FIELD_NUMBERS
from schemas.field_types import declared_fields, nested_records
from schemas.protobuf import file_descriptor, proto_messages, proto_text
from schemas.skew import EmbeddingsCounted
from schemas.topics import TOPICS
from tests.schemas.checked_in import NUMBERS

RECORDS = {one.__name__: one for topic in TOPICS.values() for one in nested_records(topic.value)}


def test_field_numbers_are_only_ever_added() -> None:
    frozen = json.loads(NUMBERS.read_text("utf-8"))

    kept = {
        message: {name: FIELD_NUMBERS.get(message, {}).get(name) for name in numbers}
        for message, numbers in frozen.items()
    }
    assert kept == frozen, "a number was changed or taken out; only new lines are allowed"
    # Without this a number that is not frozen yet could still be changed.
    assert frozen == FIELD_NUMBERS, "run `make schemas`, which freezes the new numbers"


def test_no_number_is_used_twice_in_a_message() -> None:
    for message, numbers in FIELD_NUMBERS.items():
        assert len(set(numbers.values())) == len(numbers), message
        assert all(0 < number < 19_000 for number in numbers.values()), message


@pytest.mark.parametrize("name", RECORDS)
def test_every_declared_field_has_its_number(name: str) -> None:
    assert {field.name for field in declared_fields(RECORDS[name])} <= set(FIELD_NUMBERS[name])


def test_a_field_that_was_taken_out_stays_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIELD_NUMBERS["PinChanged"], "gone", 99)

    text = proto_text(PinChanged)

    assert "  reserved 99;\n" in text and '  reserved "gone";\n' in text


def test_the_lines_say_presence_lists_and_maps() -> None:
    text = proto_text(PinChanged)

    assert "\n  optional int64 pin_id = 1;" in text
    assert "\n  Integers coupons = 14;" in text
    assert "\n  Vector content_embedding = 11;" in text
    assert "\n  map<string, int64> rows = 6;" in proto_text(EmbeddingsCounted)


@pytest.mark.parametrize("topic", TOPICS)
def test_the_descriptor_is_the_text(topic: str) -> None:
    model = TOPICS[topic].value
    pool = DescriptorPool()
    pool.Add(FileDescriptorProto.FromString(file_descriptor(model)))

    for message in proto_messages(model):
        described = pool.FindMessageTypeByName(f"skewless.{message.name}")
        came = {(one.name, one.number, one.is_repeated) for one in described.fields}
        assert came == {(one.name, one.number, one.label in ("repeated", "map")) for one in message.fields}
        for one in message.fields:
            # Only so can an absent price and a price of 0 be told apart.
            assert described.fields_by_name[one.name].has_presence == (
                one.label == "optional" or (one.label == "" and one.name not in ("fp16", "key"))
            ), one.name
