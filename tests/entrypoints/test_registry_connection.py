import sys

import pytest

from entrypoints.registry_connection import wire_formats
from entrypoints.settings import Settings
from schemas.errors import Refused
from schemas.events import PinChanged
from tests.streams.registry_double import PASSWORD, USER, framed, registry_double


def test_without_an_address_nothing_is_framed_and_nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)

    with wire_formats(Settings.load()) as formats:
        assert formats is None


def test_the_settings_reach_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    with registry_double() as double:
        double.with_password = True
        double.add(7, "{}", "JSON")
        monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_URL", double.url)
        monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_USERNAME", USER)
        monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_PASSWORD", PASSWORD)

        with wire_formats(Settings.load()) as formats:
            assert formats is not None
            assert formats.to_json(PinChanged, framed(7, b"{}")) == b"{}"


def test_an_unsafe_address_is_refused_and_allowed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_URL", "http://registry:8081")
    with pytest.raises(Refused, match="SKEWLESS_SCHEMA_REGISTRY_ALLOW_PLAINTEXT=true"):
        wire_formats(Settings.load()).__enter__()

    monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_ALLOW_PLAINTEXT", "true")
    with wire_formats(Settings.load()) as formats:
        assert formats is not None
