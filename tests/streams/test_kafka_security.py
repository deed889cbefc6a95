import ssl
import traceback
from pathlib import Path
from typing import Any

import certifi
import pytest

from schemas.errors import Refused
from streams.kafka import KafkaSettings, producer_config
from streams.kafka_security import aiokafka_security

SECRET = "planted-kafka-password"


def settings(protocol: str, **more: Any) -> KafkaSettings:
    sasl = {"sasl_username": "worker", "sasl_password": SECRET, "sasl_mechanism": "SCRAM-SHA-256"}
    return KafkaSettings.model_validate({"security_protocol": protocol} | sasl | more)


def test_plaintext_needs_nothing_more() -> None:
    assert aiokafka_security(settings("PLAINTEXT")) == {"security_protocol": "PLAINTEXT"}


def test_sasl_ssl_carries_user_password_mechanism_and_checked_certificates() -> None:
    security = aiokafka_security(settings("SASL_SSL", bootstrap_servers="kafka:9093"))
    context = security.pop("ssl_context")

    assert security == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "worker",
        "sasl_plain_password": SECRET,
    }
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_ssl_reads_the_ca_file_and_sends_no_password() -> None:
    security = aiokafka_security(settings("SSL", ssl_ca_location=certifi.where()))

    assert security.keys() == {"security_protocol", "ssl_context"}
    assert len(security["ssl_context"].get_ca_certs()) > 0


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_both_clients_are_told_the_same(protocol: str) -> None:
    one = settings(protocol)
    ours, theirs = producer_config(one), aiokafka_security(one)
    pairs = {
        "security_protocol": "security.protocol",
        "sasl_mechanism": "sasl.mechanism",
        "sasl_plain_username": "sasl.username",
        "sasl_plain_password": "sasl.password",
    }

    assert {name: ours.get(other) for name, other in pairs.items()} == {
        name: theirs.get(name) for name in pairs
    }


def test_aiokafka_takes_every_argument() -> None:
    import inspect  # noqa: PLC0415

    from aiokafka import AIOKafkaConsumer  # noqa: PLC0415

    taken = inspect.signature(AIOKafkaConsumer.__init__).parameters
    assert set(aiokafka_security(settings("SASL_SSL"))) <= set(taken)


def test_a_ca_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate", "utf-8")

    for path in (broken, tmp_path / "absent.pem"):
        with pytest.raises(Refused, match="kafka_ca") as refused:
            aiokafka_security(settings("SASL_SSL", ssl_ca_location=str(path)))
        assert SECRET not in "".join(traceback.format_exception(refused.value))
