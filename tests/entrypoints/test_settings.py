from pathlib import Path

import pytest

from entrypoints.settings import Settings
from schemas.errors import Refused
from streams.worker_settings import WorkerSettings


def test_the_environment_sets_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEWLESS_HTTP_PORT", "9001")

    assert Settings.load().http_port == 9001


def test_an_override_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEWLESS_DATA_DIR", "/elsewhere")

    assert Settings.load(data_dir=Path("here")).data_dir == Path("here")


def test_an_unknown_name_is_refused_and_the_nearest_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SKEWLESS_HTTP_PROT", "9001")

    with pytest.raises(Refused) as refused:
        Settings.load()

    assert "SKEWLESS_HTTP_PROT" in refused.value.expected
    assert "SKEWLESS_HTTP_PORT" in refused.value.expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PORT", "70000"), ("BATCH_EVENTS", "0"), ("CUT_CLOCK", "lunar"), ("THREADS", "x")],
)
def test_a_value_out_of_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SKEWLESS_{name}", value)

    with pytest.raises(Refused) as refused:
        Settings.load()

    assert refused.value.code == "bad_setting"
    assert name.lower() in refused.value.expected
    assert f"SKEWLESS_{name}" in refused.value.came


def test_secrets_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEWLESS_ADMIN_TOKEN", "planted-token")
    monkeypatch.setenv("SKEWLESS_KAFKA_SASL_PASSWORD", "planted-password")

    loaded = Settings.load()

    assert "planted" not in repr(loaded)
    assert "planted" not in str(loaded.model_dump())
    assert loaded.admin_token.get_secret_value() == "planted-token"


def test_a_worker_works_by_default_as_the_benchmarks_measure_it() -> None:
    settings, worker = Settings(), WorkerSettings()
    assert settings.batch_events == worker.batch_events
    assert settings.state_flush_seconds == worker.flush_seconds
    assert settings.state_flush_chunk_pins == worker.flush_chunk_pins
    assert settings.watchdog_seconds == worker.watchdog_seconds
