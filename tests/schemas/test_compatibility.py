"""The checked-in schemas are the present ones, and the present ones may follow those of the last release."""

import copy
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.avro import avro_schema
from schemas.compatibility import avro_breaks, json_breaks, proto_breaks
from schemas.events import PinChanged
from schemas.logs import RankingLog
from schemas.protobuf import proto_text
from schemas.topics import TOPICS
from tests.schemas.checked_in import RELEASED, ROOT, SCHEMAS, present

Spec = dict[str, Any]

PRESENT = present()
RELEASED_FILES = sorted(RELEASED.iterdir())


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.name)
def test_a_checked_in_file_is_the_present_one(path: Path) -> None:
    assert path.read_text("utf-8") == PRESENT[path], "run `make schemas` and look at what changed"


def test_nothing_is_checked_in_of_what_is_no_topic() -> None:
    names = {path.name for path in SCHEMAS.iterdir() if path.is_file()} - {"field_numbers.json"}

    assert names == {path.name for path in PRESENT if path.parent == SCHEMAS}


def breaks(name: str, old: str, new: str) -> list[str]:
    if name.endswith(".proto"):
        return proto_breaks(old, new)
    compare = json_breaks if name.endswith(".json") else avro_breaks
    return compare(json.loads(old), json.loads(new))


@pytest.mark.parametrize("released", RELEASED_FILES, ids=lambda path: path.name)
def test_the_present_schema_may_follow_the_released_one(released: Path) -> None:
    successor = SCHEMAS / released.name
    assert successor.exists(), "a topic is never taken away: a new major version is a new topic"

    assert breaks(released.name, released.read_text("utf-8"), successor.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "path", [path for path in PRESENT if path.parent == SCHEMAS], ids=lambda path: path.name
)
def test_every_schema_may_follow_itself(path: Path) -> None:
    assert breaks(path.name, PRESENT[path], PRESENT[path]) == []


def test_what_was_added_since_the_release_would_break_the_other_way_round() -> None:
    name = "pin.aggregated.v1.json"
    old, new = (RELEASED / name).read_text("utf-8"), (SCHEMAS / name).read_text("utf-8")

    assert breaks(name, new, old) == ["engagements: taken away (or renamed)"]


def planted(change: Callable[[Spec], Any], model: Any = PinChanged) -> list[str]:
    old = model.model_json_schema()
    new = copy.deepcopy(old)
    change(new)
    return json_breaks(old, new)


def inner(schema: Spec, name: str) -> Spec:
    """The non-null alternative of an optional property."""
    found: Spec = schema["properties"][name]["anyOf"][0]
    return found


PLANTED: dict[str, tuple[str, Callable[[Spec], Any]]] = {
    "a field becomes required": ("price_micros: required", lambda s: s["required"].append("price_micros")),
    "a new required field": (
        "colour: required",
        lambda s: (s["properties"].update(colour={"type": "string"}), s["required"].append("colour")),
    ),
    "a field is taken away": ("brand: taken away", lambda s: s["properties"].pop("brand")),
    "a field is renamed": (
        "brand: taken away",
        lambda s: s["properties"].update(maker=s["properties"].pop("brand")),
    ),
    "a type changes": ("pin_id: type integer", lambda s: s["properties"]["pin_id"].update(type="string")),
    "a type inside changes": (
        "price_micros: integer",
        lambda s: inner(s, "price_micros").update(type="string"),
    ),
    "an enum value goes": ("status: 'paused'", lambda s: inner(s, "status")["enum"].remove("paused")),
    "an enum value inside a list goes": (
        "target_ages[]: '65+'",
        lambda s: inner(s, "target_ages")["items"]["enum"].remove("65+"),
    ),
    "text becomes an enum": ("brand: other values", lambda s: inner(s, "brand").update(enum=["A"])),
    "an upper bound falls": (
        "price_micros: exclusiveMaximum",
        lambda s: inner(s, "price_micros").update(exclusiveMaximum=2**40),
    ),
    "a lower bound rises": ("pin_id: minimum", lambda s: s["properties"]["pin_id"].update(minimum=1)),
    "a new bound": ("pin_id: maximum", lambda s: s["properties"]["pin_id"].update(maximum=2**40)),
    "a text gets shorter": ("title: maxLength", lambda s: inner(s, "title").update(maxLength=299)),
    "a list gets shorter": ("coupons: maxItems", lambda s: inner(s, "coupons").update(maxItems=2)),
    "a list gets longer": ("coupons: minItems", lambda s: inner(s, "coupons").update(minItems=4)),
    "a pattern changes": ("title: pattern", lambda s: inner(s, "title").update(pattern="^[a-z]*$")),
    "null is no longer taken": (
        "brand: null",
        lambda s: s["properties"]["brand"]["anyOf"].remove({"type": "null"}),
    ),
    "a default changes": (
        "price_micros: default",
        lambda s: s["properties"]["price_micros"].update(default=0),
    ),
    "a vector loses a spelling": (
        "content_embedding: array",
        lambda s: inner(s, "content_embedding")["oneOf"].pop(),
    ),
    "unknown fields are refused": (
        "the message: unknown fields",
        lambda s: s.update(additionalProperties=False),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_break_is_caught_and_the_field_named(name: str) -> None:
    said, change = PLANTED[name]

    (broken,) = planted(change)

    assert broken.startswith(said)


def map_of(schema: Spec) -> Spec:
    """Pattern of the keys → schema of the values, in `embeddings.counted.v1`."""
    found: Spec = schema["properties"]["rows"]["patternProperties"]
    return found


def test_a_break_inside_a_nested_record_and_inside_a_map_is_caught() -> None:
    def change(schema: Spec) -> None:
        schema["$defs"]["LoggedAd"]["required"].remove("dot")
        schema["$defs"]["LoggedAd"]["properties"]["dot"]["type"] = "integer"

    assert planted(change, RankingLog) == ["ads[].dot: type number becomes integer"]

    counts = TOPICS["embeddings.counted.v1"].value
    (pattern,) = counts.model_json_schema()["properties"]["rows"]["patternProperties"]
    assert planted(lambda s: map_of(s)[pattern].update(minimum=1), counts) == ["rows{}: minimum 0 becomes 1"]
    assert planted(lambda s: map_of(s).update(x=map_of(s).pop(pattern)), counts) == [
        f"rows{{key}}: pattern {pattern} becomes x"
    ]


ALLOWED: dict[str, Callable[[Spec], Any]] = {
    "a new optional field": lambda s: s["properties"].update(colour={"type": "string", "default": None}),
    "a required field becomes optional": lambda s: s["required"].remove("occurred_at_ms"),
    "a new enum value": lambda s: inner(s, "status")["enum"].append("draft"),
    "a wider bound": lambda s: s["properties"]["pin_id"].update(minimum=-1, exclusiveMaximum=2**64),
    "a bound goes": lambda s: s["properties"]["pin_id"].pop("minimum"),
    "a longer text": lambda s: inner(s, "title").update(maxLength=301),
    "an integer becomes a number": lambda s: s["properties"]["pin_id"].update(type="number"),
    "a pattern goes": lambda s: inner(s, "title").pop("pattern"),
    "null is taken too": lambda s: s["properties"].update(
        pin_id={"anyOf": [s["properties"]["pin_id"], {"type": "null"}]}
    ),
    "another description": lambda s: s["properties"]["pin_id"].update(description="x", title="y"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_an_addition_is_no_break(name: str) -> None:
    assert planted(ALLOWED[name]) == []


def _before_and_after(name: str) -> tuple[Any, Any]:
    old = PinChanged.model_json_schema()
    new = copy.deepcopy(old)
    ALLOWED[name](new)
    return jsonschema.Draft202012Validator(old), jsonschema.Draft202012Validator(new)


VALIDATORS = {name: _before_and_after(name) for name in ALLOWED}

messages = st.fixed_dictionaries(
    {"pin_id": st.integers(0, 2**63 - 1), "occurred_at_ms": st.integers(0, 4_102_444_799_999)},
    optional={
        "status": st.sampled_from(["active", "paused", "deleted", None]),
        "brand": st.one_of(st.none(), st.text("ab", max_size=100)),
        "price_micros": st.one_of(st.none(), st.integers(0, 2**53 - 1)),
        "coupons": st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=3, max_size=3)),
        "target_ages": st.lists(st.sampled_from(["19-24", "65+"]), max_size=3),
    },
)


@given(st.sampled_from(sorted(ALLOWED)), messages)
def test_whatever_was_valid_is_valid_after_a_change_that_is_no_break(name: str, message: Spec) -> None:
    old, new = VALIDATORS[name]

    old.validate(message)
    new.validate(message)


AVRO_PLANTED: dict[str, tuple[str, Callable[[dict[str, Spec]], Any]]] = {
    "a new field without a default": (
        "colour: new",
        lambda f: f.update(colour={"name": "colour", "type": "long"}),
    ),
    "a field is taken away": ("brand: taken away", lambda f: f.pop("brand")),
    "a type changes": ("pin_id: long cannot be read as string", lambda f: f["pin_id"].update(type="string")),
    "a type narrows": ("pin_id: long cannot be read as int", lambda f: f["pin_id"].update(type="int")),
    "null is no longer taken": (
        "brand: null",
        lambda f: f.update(brand={"name": "brand", "type": "string", "default": ""}),
    ),
    "a branch changes": ("brand: string", lambda f: f["brand"].update(type=["null", "long"])),
    "an item changes": (
        "coupons[]: long cannot be read as int",
        lambda f: f["coupons"].update(type=["null", {"type": "array", "items": "int"}]),
    ),
}


EMPTY = {"pin_id": 2**40, "occurred_at_ms": 1}
FULL = EMPTY | {"brand": "x", "coupons": [1, 2, 3]}


def read_by_fastavro(old: Spec, new: Spec, record: Spec) -> bool:
    """Whether what `old` writes of the record can be read with `new`, and says the same."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(old), record)
    stream.seek(0)
    try:
        read = fastavro.schemaless_reader(stream, fastavro.parse_schema(old), fastavro.parse_schema(new))
    except (fastavro.schema.SchemaParseException, fastavro.read.SchemaResolutionError):
        return False
    assert isinstance(read, dict)
    return record.items() <= read.items()


@pytest.mark.parametrize("name", AVRO_PLANTED)
def test_a_planted_avro_break_is_caught_and_so_says_fastavro(name: str) -> None:
    said, change = AVRO_PLANTED[name]
    old, new = avro_schema(PinChanged), avro_schema(PinChanged)
    fields = {field["name"]: field for field in new["fields"]}
    change(fields)
    new["fields"] = list(fields.values())

    (broken,) = avro_breaks(old, new)

    assert broken.startswith(said)
    assert "taken away" in said or any(not read_by_fastavro(old, new, one) for one in (FULL, EMPTY))


def test_an_avro_type_may_widen_and_a_field_with_a_default_may_be_added() -> None:
    old, new = avro_schema(PinChanged), avro_schema(PinChanged)
    new["fields"][0]["type"] = "double"
    new["fields"].append({"name": "colour", "type": ["null", "string"], "default": None})

    assert avro_breaks(old, new) == []
    assert read_by_fastavro(old, new, FULL) and read_by_fastavro(old, new, EMPTY)


def test_avro_enums_and_maps_and_named_types_are_compared() -> None:
    def record(symbols: list[str], values: str) -> Spec:
        enum = {"type": "enum", "name": "E", "symbols": symbols}
        fields = [("a", enum), ("b", "E"), ("c", {"type": "map", "values": values})]
        return {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields]}

    assert avro_breaks(record(["X", "Y"], "long"), record(["X"], "string")) == [
        "a: 'Y' no longer allowed",
        "b: 'Y' no longer allowed",
        "c{}: long cannot be read as string",
    ]


PROTO_PLANTED = {
    "a number changes": ("brand = 8;", "brand = 98;", "PinChanged.brand: number 8 becomes 98"),
    "a field is taken away": ("  optional string brand = 8;\n", "", "PinChanged.brand: taken away"),
    "a type changes": (
        "optional string brand",
        "optional bytes brand",
        "PinChanged.brand: optional string becomes",
    ),
    "presence goes": (
        "optional string brand",
        "string brand",
        "PinChanged.brand: optional string becomes string",
    ),
}


@pytest.mark.parametrize("name", PROTO_PLANTED)
def test_a_planted_protobuf_break_is_caught(name: str) -> None:
    before, after, said = PROTO_PLANTED[name]
    old = proto_text(PinChanged)
    assert before in old

    (broken,) = proto_breaks(old, old.replace(before, after))

    assert broken.startswith(said)


def test_a_number_that_another_field_had_is_caught() -> None:
    old = proto_text(PinChanged)

    assert proto_breaks(old, old.replace("string brand = 8;", "string maker = 8;")) == [
        "PinChanged.brand: taken away (or renamed)",
        "PinChanged.maker: number 8 was brand's",
    ]


def test_a_new_protobuf_field_is_no_break() -> None:
    old = proto_text(PinChanged)

    assert proto_breaks(old, old.replace("brand = 8;", "brand = 8;\n  optional string colour = 99;")) == []


@pytest.mark.parametrize(("written", "suffix"), [("json", "json"), ("avro", "avsc"), ("proto", "proto")])
def test_the_command_prints_what_is_checked_in(written: str, suffix: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", "schema", "pin.changed.v1", "--format", written],
        capture_output=True,
        check=True,
        cwd=ROOT,
    ).stdout

    assert printed == (SCHEMAS / f"pin.changed.v1.{suffix}").read_bytes()
