"""Settings → how to get at Kafka. Apart from the composition root, which takes seconds to import."""

from schemas.errors import RetryableError
from streams.kafka import KafkaSettings

from .settings import Settings


def kafka_settings(settings: Settings) -> KafkaSettings:
    """Kafka connection of every process. Raises RetryableError when no broker is configured."""
    if not settings.kafka_bootstrap_servers:
        raise RetryableError(
            "no broker is configured: set SKEWLESS_KAFKA_BOOTSTRAP_SERVERS=host:port, "
            "or start `skewless broker` (embedded: demo and tests only)"
        )
    sasl = settings.kafka_sasl_mechanism
    return KafkaSettings(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        security_protocol=settings.kafka_security_protocol,
        **({"sasl_mechanism": sasl} if sasl else {}),
        sasl_username=settings.kafka_sasl_username or None,
        sasl_password=settings.kafka_sasl_password if settings.kafka_sasl_username else None,
        ssl_ca_location=settings.kafka_ssl_ca_location or None,
        replication_factor=settings.kafka_replication_factor,
        allow_plaintext=settings.kafka_allow_plaintext,
    )
