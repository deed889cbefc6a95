"""Passwords and tokens: in no repr, no output, no log and no error, whatever goes wrong."""

import logging
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from typer.testing import CliRunner

from entrypoints.cli import app
from entrypoints.kafka_connection import kafka_settings
from entrypoints.registry_connection import wire_formats
from entrypoints.settings import ENV_PREFIX, Settings
from entrypoints.store_connection import release_store
from schemas.errors import Refused
from schemas.events import PinChanged
from skewless_client import ProducerSettings
from streams.kafka import KafkaSettings, producer_config
from tests.streams.registry_double import framed, registry_double

ROOT = Path(__file__).parent.parent
SECRETS = {
    name: f"planted-{name}"
    for name, field in Settings.model_fields.items()
    if "Secret" in str(field.annotation)
}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(ENV_PREFIX + name.upper(), secret)
    monkeypatch.setenv("SKEWLESS_KAFKA_SASL_USERNAME", "worker")
    monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_USERNAME", "reader")


def raised(error: BaseException) -> str:
    """Everything that a traceback would print of it."""
    return "".join(traceback.format_exception(error))


def test_the_secrets_are_these() -> None:
    assert set(SECRETS) >= {"kafka_sasl_password", "schema_registry_password", "admin_token"}


def test_settings_hold_them_and_show_none() -> None:
    loaded = Settings.load()

    assert {name: getattr(loaded, name).get_secret_value() for name in SECRETS} == SECRETS
    assert "planted" not in repr(loaded) + str(loaded) + str(loaded.model_dump()) + loaded.model_dump_json()


@pytest.mark.parametrize("arguments", [["settings"], ["settings", "--json"]])
def test_the_settings_command_masks_them(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"SKEWLESS_KAFKA_SASL_PASSWORD": SECRETS["kafka_sasl_password"]},
        check=True,
    )

    assert "KAFKA_SASL_PASSWORD" in done.stdout and "********" in done.stdout
    assert "planted" not in done.stdout + done.stderr


CREDENTIALS = [
    ("schema_registry_url", "user:planted-url@registry:8081"),
    ("schema_registry_url", "https://a,https://user:planted-url@b"),
    ("schema_registry_url", "https://user:planted-url@registry:8081"),
    ("store_url", "user:planted-url@bucket"),
    ("store_url", "s3://user:planted-url@bucket"),
    ("store_url", "s3:user:planted-url@bucket"),
    ("store_endpoint", "minio:planted-url@minio:9000"),
    ("store_endpoint", "http://minio:planted-url@minio:9000"),
    ("kafka_bootstrap_servers", "user:planted-url@kafka:9092"),
]


@pytest.mark.parametrize(("name", "address"), CREDENTIALS)
def test_credentials_in_an_address_are_in_no_refusal(name: str, address: str) -> None:
    connect: dict[str, Callable[[Settings], object]] = {
        "schema_registry_url": lambda settings: wire_formats(settings).__enter__(),
        "store_url": release_store,
        "store_endpoint": release_store,
        "kafka_bootstrap_servers": kafka_settings,
    }
    settings = Settings.load(**{"store_url": "s3://bucket", "store_access_key_id": "id"} | {name: address})

    with pytest.raises(Refused) as refused:
        connect[name](settings)

    assert "planted" not in raised(refused.value)
    assert "***@" in refused.value.came


def test_the_settings_command_masks_credentials_in_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, address in CREDENTIALS:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), address)
    for arguments in (["settings"], ["settings", "--json"]):
        done = CliRunner().invoke(app, arguments)

        assert done.exit_code == 0
        assert "***@minio:9000" in done.output and "***@kafka:9092" in done.output
        assert "planted" not in done.output


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SKEWLESS_HTTP_PORT", "x"), ("SKEWLESS_NO_SUCH_SETTING", "planted-too"), ("SKEWLESS_TIER_", "")],
)
def test_a_refused_setting_does_not_show_the_others(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(Refused) as refused:
        Settings.load()

    assert "planted" not in raised(refused.value)


def sasl(**more: Any) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {"security_protocol": "SASL_SSL", "sasl_username": "worker", "sasl_password": "planted"} | more
    )


def test_refused_kafka_settings_do_not_show_the_password() -> None:
    with pytest.raises(Refused) as refused:
        sasl(security_protocol="SASL_PLAINTEXT", bootstrap_servers="kafka:9092")

    assert refused.value.code == "kafka_plaintext"
    assert "planted" not in raised(refused.value)


def test_the_clients_settings_do_not_show_the_password() -> None:
    settings = ProducerSettings("localhost:1", source="s", sasl_password="planted")

    assert "planted" not in repr(settings) + str(settings)


@contextmanager
def closing_listener() -> Iterator[str]:
    """Accepts connections and closes them, as a broker does that does not like what it hears."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_each() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=close_each)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_kafka_that_does_not_let_us_in_shows_no_password(
    protocol: str, mechanism: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with closing_listener() as address:
        settings = sasl(bootstrap_servers=address, security_protocol=protocol, sasl_mechanism=mechanism)
        logger = logging.getLogger("tests.secrets")
        producer = Producer(producer_config(settings, {"debug": "security,broker,conf"}), logger=logger)
        with pytest.raises(KafkaException) as failed:
            producer.list_topics(timeout=0.3)
        producer.poll(0)

    printed = capfd.readouterr()
    assert "sasl" in caplog.text.lower(), "librdkafka said nothing, so this proves nothing"
    assert "planted" not in raised(failed.value) + caplog.text + printed.out + printed.err


def test_a_registry_that_does_not_let_us_in_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with registry_double() as double:
        double.with_password = True
        monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY_URL", double.url)
        with pytest.raises(Refused) as refused, wire_formats(Settings.load()) as formats:
            assert formats is not None
            formats.to_json(PinChanged, framed(7, b"{}"))

    assert refused.value.code == "registry_credentials"
    assert "planted" not in raised(refused.value) + caplog.text


@pytest.mark.parametrize(
    ("servers", "remote"),
    [
        ("[2001:db8::1]:9092", "2001:db8::1"),
        ("[::1]:9092,[fe80::1]:9092", "fe80::1"),
        ("127.0.0.1:9092,localhost:9092,kafka-3:9092", "kafka-3"),
        ("kafka.example.com:9092", "kafka.example.com"),
        ("localhost.example.com:9092", "localhost.example.com"),
        ("127.0.0.1.example.com:9092", "127.0.0.1.example.com"),
        ("PLAINTEXT://10.0.0.1:9092", "10.0.0.1"),
        ("0.0.0.0:9092", "0.0.0.0"),
        ("[::ffff:10.0.0.1]:9092", "::ffff:10.0.0.1"),
    ],
)
def test_plaintext_leaves_this_host_only_when_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, servers: str, remote: str
) -> None:
    monkeypatch.setenv("SKEWLESS_KAFKA_BOOTSTRAP_SERVERS", servers)
    with pytest.raises(Refused) as refused:
        kafka_settings(Settings.load())
    assert refused.value.code == "kafka_plaintext" and remote in refused.value.came

    monkeypatch.setenv("SKEWLESS_KAFKA_ALLOW_PLAINTEXT", "true")
    assert kafka_settings(Settings.load()).bootstrap_servers == servers
