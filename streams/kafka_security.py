"""The same Kafka settings for the other client: aiokafka, and Faust on top of it."""

import ssl
from typing import Any

from .kafka import KafkaSettings, check_ca_file


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
        if settings.ssl_ca_location is not None:
            check_ca_file(settings.ssl_ca_location)
        security["ssl_context"] = ssl.create_default_context(cafile=settings.ssl_ca_location)
    return security
