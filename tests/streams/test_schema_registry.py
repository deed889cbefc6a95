import json
import logging
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema

from schemas.avro import avro_schema, avro_text
from schemas.codec import decode
from schemas.errors import DeadLetterReason, InvalidMessage, Refused, RetryableError
from schemas.events import PinChanged
from schemas.protobuf import file_descriptor
from streams.schema_registry import (
    UNKNOWN_FOR_SECONDS,
    ConfluentRegistry,
    RegistrySettings,
    registry_client,
)
from streams.wire_format import WireFormats
from tests.schemas.examples import pin_changed
from tests.streams.registry_double import PASSWORD, USER, RegistryDouble, framed, registry_double
from tests.streams.test_protobuf_values import base64_of, ours
from tests.streams.test_wire_format import PIN, avro

RECORD = avro(avro_schema(PinChanged), PIN | {"price_micros": 5})


@pytest.fixture
def double() -> Iterator[RegistryDouble]:
    with registry_double() as running:
        yield running


class Registries:
    """Makes registries and closes them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: list[ConfluentRegistry] = []

    def __call__(self, url: str, **settings: Any) -> ConfluentRegistry:
        client = registry_client(RegistrySettings(url=url, **settings))
        self.made.append(ConfluentRegistry(client, lambda: self.now))
        return self.made[-1]


@pytest.fixture
def registries() -> Iterator[Registries]:
    made = Registries()
    yield made
    for one in made.made:
        one.close()


def test_the_client_librarys_own_registry_serves_avro_and_protobuf() -> None:
    client = registry_client(RegistrySettings(url="mock://tests"))
    by_avro = client.register_schema("pin.changed.v1-value", Schema(avro_text(PinChanged), "AVRO"))
    by_proto = client.register_schema(
        "pin.changed.v1-proto", Schema(base64_of(file_descriptor(PinChanged)), "PROTOBUF")
    )
    formats = WireFormats(ConfluentRegistry(client, lambda: 0.0))

    for value in (framed(by_avro, RECORD), framed(by_proto, b"\x00" + ours(price_micros=5))):
        assert decode(PinChanged, formats.to_json(PinChanged, value)) == pin_changed(price_micros=5)
    with pytest.raises(InvalidMessage, match="no schema 99"):
        formats.to_json(PinChanged, framed(99, b""))


def test_what_the_client_librarys_own_serialisers_write_is_read() -> None:
    from confluent_kafka.schema_registry.avro import AvroSerializer  # noqa: PLC0415
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer  # noqa: PLC0415
    from confluent_kafka.serialization import MessageField, SerializationContext  # noqa: PLC0415

    from tests.streams.test_protobuf_values import message_class  # noqa: PLC0415

    client = registry_client(RegistrySettings(url="mock://serialisers"))
    formats = WireFormats(ConfluentRegistry(client, lambda: 0.0))
    context = SerializationContext("pin.changed.v1", MessageField.VALUE)
    message = message_class(file_descriptor(PinChanged), "skewless.PinChanged")
    by_avro = AvroSerializer(client, avro_text(PinChanged))(PIN | {"price_micros": 5}, context)
    by_proto = ProtobufSerializer(message, client, {"use.deprecated.format": False})(
        message(**PIN, price_micros=5), SerializationContext("proto", MessageField.VALUE)
    )

    for value in (by_avro, by_proto):
        assert value[:1] == b"\x00"
        assert decode(PinChanged, formats.to_json(PinChanged, value)) == pin_changed(price_micros=5)


def test_a_schema_is_read_over_http_once(double: RegistryDouble, registries: Registries) -> None:
    double.add(7, avro_text(PinChanged))
    formats = WireFormats(registries(double.url))

    for _ in range(3):
        assert json.loads(formats.to_json(PinChanged, framed(7, RECORD)))["price_micros"] == 5

    assert double.asked == ["/schemas/ids/7?format=serialized"]


def test_references_are_fetched_before_what_refers_to_them(
    double: RegistryDouble, registries: Registries
) -> None:
    def refers(name: str) -> dict[str, Any]:
        return {"references": [{"name": name, "subject": f"s-{name}", "version": 2}]}

    double.add(1, "top", **refers("b"))
    double.by_subject[("s-b", 2)] = {"subject": "s-b", "version": 2, "id": 2, "schema": "B"} | refers("c")
    double.by_subject[("s-c", 2)] = {"subject": "s-c", "version": 2, "id": 3, "schema": "C"}

    assert registries(double.url).schema(1).references == (("c", "C"), ("b", "B"))


def test_schemas_that_refer_to_each_other_without_end_are_refused(
    double: RegistryDouble, registries: Registries
) -> None:
    refers: dict[str, Any] = {"references": [{"name": "a", "subject": "s", "version": 1}]}
    double.add(1, "top", **refers)
    double.by_subject[("s", 1)] = {"subject": "s", "version": 1, "id": 2, "schema": "A"} | refers

    with pytest.raises(InvalidMessage) as refused:
        registries(double.url).schema(1)

    assert refused.value.reason is DeadLetterReason.UNKNOWN_VERSION


def test_an_id_that_is_not_there_is_a_dead_letter_and_asked_for_again_later(
    double: RegistryDouble, registries: Registries
) -> None:
    registry = registries(double.url)
    for _ in range(3):
        with pytest.raises(InvalidMessage, match="unknown_version: the schema registry has no schema 7"):
            registry.schema(7)
    assert len(double.asked) == 1

    double.add(7, "registered since")
    registries.now = UNKNOWN_FOR_SECONDS

    assert registry.schema(7).text == "registered since"


@pytest.mark.parametrize("schema_id", [2**31, 2**32 - 1])
def test_an_id_that_no_registry_can_have_is_a_dead_letter_without_a_request(
    double: RegistryDouble, registries: Registries, schema_id: int
) -> None:
    formats = WireFormats(registries(double.url))

    with pytest.raises(
        InvalidMessage, match=f"unknown_version: the schema registry has no schema {schema_id}"
    ):
        formats.to_json(PinChanged, framed(schema_id, b""))

    assert double.asked == []


def test_the_highest_id_is_asked_for(double: RegistryDouble, registries: Registries) -> None:
    double.add(2**31 - 1, "text")

    assert registries(double.url).schema(2**31 - 1).text == "text"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (500, b'{"error_code": 50001, "message": "store"}'),
        (502, b"<html>"),
        (503, b""),
        (429, b"{}"),
        (404, b"<html>no such page: a proxy, or a wrong address</html>"),
        (404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'),
        (200, b"<html>a login page</html>"),
        (200, b"[]"),
        (301, b""),
    ],
)
def test_every_other_answer_is_tried_again_and_no_dead_letter(
    double: RegistryDouble, registries: Registries, status: int, body: bytes
) -> None:
    double.add(7, avro_text(PinChanged))
    double.status, double.body = status, body
    formats = WireFormats(registries(double.url))

    with pytest.raises(RetryableError, match="the schema registry does not answer"):
        formats.normalise(PinChanged, [framed(7, RECORD)])
    assert len(double.asked) == 1

    double.status, double.body = 200, b""
    assert formats.normalise(PinChanged, [framed(7, RECORD)]) is not None


def test_no_answer_in_time_is_tried_again(double: RegistryDouble, registries: Registries) -> None:
    double.hold.clear()

    with pytest.raises(RetryableError, match="ReadTimeout"):
        registries(double.url, timeout_seconds=0.05).schema(7)


def test_nobody_there_is_tried_again(registries: Registries) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(RetryableError, match="ConnectError"):
            registries(f"http://127.0.0.1:{taken.getsockname()[1]}").schema(7)


def test_the_right_password_lets_in(double: RegistryDouble, registries: Registries) -> None:
    double.with_password = True
    double.add(7, "text")

    assert registries(double.url, username=USER, password=PASSWORD).schema(7).text == "text"


@pytest.mark.parametrize("settings", [{}, {"username": USER, "password": PASSWORD + "-wrong"}])
def test_a_wrong_password_is_refused_and_never_repeated(
    double: RegistryDouble, registries: Registries, settings: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    double.with_password = True
    caplog.set_level(logging.DEBUG)

    with pytest.raises(Refused) as refused:
        registries(double.url, **settings).schema(7)

    # The double answers with the credentials that it got, as some servers do.
    said = "".join(traceback.format_exception(refused.value)) + caplog.text
    assert refused.value.code == "registry_credentials"
    assert "planted" not in said and "Basic" not in said


def test_the_password_is_in_no_repr() -> None:
    settings = RegistrySettings(url="https://r:1", username=USER, password=PASSWORD)

    assert "planted" not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("url", ["http://registry:8081", "http://10.0.0.1", "http://[2001:db8::1]:8081/path"])
def test_an_unencrypted_address_of_another_host_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="registry_plaintext"):
        RegistrySettings(url=url)

    assert RegistrySettings(url=url, allow_plaintext=True).url == url


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8081", "http://127.0.0.1", "http://[::1]:8081/x", "https://registry/x", "mock://x"],
)
def test_a_safe_address_is_taken(url: str) -> None:
    assert RegistrySettings(url=url).url == url


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(Refused) as refused:
        RegistrySettings(url="https://reader:planted@registry:8081")

    assert refused.value.code == "registry_url" and "planted" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "registry:8081", "ftp://registry", "https://a,https://b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="registry_url"):
        RegistrySettings(url=url)


def test_a_user_name_with_a_colon_is_refused() -> None:
    with pytest.raises(Refused, match="registry_url"):
        RegistrySettings(url="https://r", username="a:b")


def test_a_ca_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="registry_ca"):
        registry_client(RegistrySettings(url="https://r", ca_location=str(tmp_path / "none.pem")))


def test_without_the_extra_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)

    with pytest.raises(Refused, match=r"pip install '\.\[registry\]'"):
        registry_client(RegistrySettings(url="https://r"))


def test_unknown_ids_are_remembered_in_bounded_memory() -> None:
    asked: list[int] = []

    class NotFound(Exception):
        http_status_code, error_code = 404, 40403

    def get_schema(schema_id: int, fmt: str) -> Any:
        asked.append(schema_id)
        raise NotFound

    registry = ConfluentRegistry(SimpleNamespace(get_schema=get_schema), lambda: 0.0)
    for schema_id in range(10_001):
        with pytest.raises(InvalidMessage):
            registry.schema(schema_id)
    with pytest.raises(InvalidMessage):
        registry.schema(0)

    assert asked[-1] == 0  # forgotten, so asked for again
