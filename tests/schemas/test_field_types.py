from typing import Any

import pytest
from pydantic import BaseModel, create_model

from schemas.events import PinChanged
from schemas.field_types import declared_fields, nested_records
from schemas.logs import LoggedAd, RankingLog
from schemas.ranking import StageTrace
from schemas.skew import EmbeddingsCounted
from schemas.topics import TOPICS


def kinds(model: type[BaseModel]) -> dict[str, str]:
    return {field.name: field.shape.kind for field in declared_fields(model)}


def test_shapes_follow_the_declaration() -> None:
    shapes = kinds(PinChanged)

    assert (shapes["pin_id"], shapes["title"], shapes["status"]) == ("integer", "text", "text")
    assert (shapes["coupons"], shapes["interest_targeting"]) == ("list", "boolean")
    assert shapes["content_embedding"] == "vector"
    assert kinds(EmbeddingsCounted)["rows"] == "map"
    assert kinds(LoggedAd)["dot"] == "number"


def test_what_may_be_absent_and_what_is_required_is_told_apart() -> None:
    fields = {field.name: (field.nullable, field.required) for field in declared_fields(PinChanged)}

    assert fields["pin_id"] == (False, True)
    assert fields["price_micros"] == (True, False)


def test_records_inside_come_after_the_one_around_them() -> None:
    assert nested_records(RankingLog) == [RankingLog, StageTrace, LoggedAd]


@pytest.mark.parametrize("annotation", [bytes, int | str, Any, set[int]])
def test_an_annotation_without_a_shape_is_an_error(annotation: Any) -> None:
    with pytest.raises(TypeError, match="no shape for"):
        declared_fields(create_model("Odd", odd=(annotation, ...)))


@pytest.mark.parametrize("topic", TOPICS)
def test_every_field_of_every_topic_has_a_shape(topic: str) -> None:
    assert len(declared_fields(TOPICS[topic].value)) == len(TOPICS[topic].value.model_fields)
