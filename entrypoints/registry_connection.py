"""The schema registry that every process reads framed messages with, from the settings."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from streams.schema_registry import ConfluentRegistry, RegistrySettings, registry_client
from streams.wire_format import WireFormats

from .settings import Settings


@contextmanager
def wire_formats(settings: Settings) -> Iterator[WireFormats | None]:
    """Readers of framed messages; None when no schema registry is configured. The registry is closed after.

    Raises Refused for an unsafe address and when the registry extra is not installed.
    """
    if not settings.schema_registry_url:
        yield None
        return
    client = registry_client(
        RegistrySettings(
            url=settings.schema_registry_url,
            username=settings.schema_registry_username or None,
            password=settings.schema_registry_password if settings.schema_registry_username else None,
            ca_location=settings.schema_registry_ca_location or None,
            allow_plaintext=settings.schema_registry_allow_plaintext,
        )
    )
    source = ConfluentRegistry(client, time.monotonic)
    try:
        yield WireFormats(source)
    finally:
        source.close()
