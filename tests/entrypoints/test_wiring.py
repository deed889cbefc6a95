"""What is wired wrongly is said when a command starts, not by a thread later on."""

import pytest

from entrypoints.settings import Settings
from entrypoints.wiring import fresh_rows
from schemas.errors import Refused


def test_a_server_whose_delta_would_read_unencrypted_does_not_start() -> None:
    settings = Settings(kafka_bootstrap_servers="broker.example.com:9092")
    with pytest.raises(Refused, match="kafka_plaintext"):
        fresh_rows(settings)
    assert fresh_rows(settings.model_copy(update={"delta": "off"})) is None
    assert fresh_rows(Settings(kafka_bootstrap_servers="127.0.0.1:1")) is not None
