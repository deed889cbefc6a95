import json

import fastavro
import pytest
from pydantic import BaseModel, create_model

from schemas.avro import VECTOR, avro_schema, avro_text
from schemas.embeddings import PinEmbedded
from schemas.events import EngagementObserved, PinChanged
from schemas.logs import RankingLog
from schemas.topics import TOPICS


def types(model: type[BaseModel]) -> dict[str, object]:
    return {field["name"]: field["type"] for field in avro_schema(model)["fields"]}


def test_a_required_field_has_no_default_and_an_optional_one_is_null() -> None:
    fields = {field["name"]: field for field in avro_schema(PinChanged)["fields"]}

    assert fields["pin_id"]["type"] == "long" and "default" not in fields["pin_id"]
    assert (fields["price_micros"]["type"], fields["price_micros"]["default"]) == (["null", "long"], None)


def test_a_default_that_is_not_null_is_kept() -> None:
    fields = {field["name"]: field for field in avro_schema(EngagementObserved)["fields"]}

    assert (fields["quantity"]["type"], fields["quantity"]["default"]) == ("long", 1)


def test_a_vector_may_be_bytes_text_or_numbers() -> None:
    assert types(PinEmbedded)["vector"] == VECTOR
    assert types(PinChanged)["content_embedding"] == ["null", *VECTOR]


def test_a_record_that_stands_twice_is_defined_once() -> None:
    ad = create_model("Ad", pin_id=(int, ...))
    twice = create_model("Twice", first=(ad, ...), second=(list[ad], ...))
    first, second = avro_schema(twice)["fields"]

    assert first["type"]["name"] == "Ad"
    assert second["type"] == {"type": "array", "items": "skewless.Ad"}
    fastavro.parse_schema(avro_schema(twice))


def test_nested_records_are_records() -> None:
    assert types(RankingLog)["ads"]["items"]["name"] == "LoggedAd"  # type: ignore[index]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_schema_is_avro_and_its_text_is_stable(topic: str) -> None:
    text = avro_text(TOPICS[topic].value)

    assert text == avro_text(TOPICS[topic].value)
    parsed = fastavro.parse_schema(json.loads(text))
    assert isinstance(parsed, dict)
    assert parsed["name"] == f"skewless.{TOPICS[topic].value.__name__}"
