"""The same Kafka settings for the other client: aiokafka, and Faust on top of it."""

import ssl
from typing import Any

from schemas.errors import Refused

from .kafka import KafkaSettings


def aiokafka_security(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments of aiokafka's clients that say what librdkafka is told by `streams.kafka`.

    Certificates and host names are checked, as librdkafka does by default. Holds the password in clear:
    never log it. Raises Refused for a CA file that cannot be read.
    """
    security: dict[str, Any] = {"security_protocol": settings.security_protocol}
    if settings.security_protocol.startswith("SASL"):
        password = settings.sasl_password.get_secret_value() if settings.sasl_password else ""
        security |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username or "",
            "sasl_plain_password": password,
        }
    if settings.security_protocol.endswith("SSL"):
        security["ssl_context"] = _ssl_context(settings.ssl_ca_location)
    return security


def _ssl_context(ca_location: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_location)
    except OSError as error:
        raise Refused(
            "kafka_ca",
            expected="a file of CA certificates in PEM form",
            came=f"{ca_location}: {error}",
            fix="Correct SKEWLESS_KAFKA_SSL_CA_LOCATION.",
        ) from error
