"""Faults planted in a real data directory and a real environment: each is found, with its exit code."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from entrypoints.doctor_facts import declaration_findings
from entrypoints.releasing import build_from_snapshot
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from models.live_towers import write_live_towers
from streams.embedded_broker import EmbeddedBroker
from tests.entrypoints.test_cli import ROOT
from tests.entrypoints.world import cut, save_tower


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker() as running:
        yield running.bootstrap_servers


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("world")
    settings = Settings.load(data_dir=data)
    tower = save_tower(data, seed=1)
    save_tower(data, seed=2)
    write_live_towers(settings.towers_dir, [tower.tower_version])
    release = build_from_snapshot(settings, cut(data, tower, 20).snapshot_id)
    release_store(settings).publish(release.release_id, actor="test", reason="test")
    return data


@pytest.fixture
def data(made_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(made_once, tmp_path / "data")
    return tmp_path / "data"


def examined(data: Path, broker: str, **settings: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and check -> (status, what was found)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    environment |= {
        "SKEWLESS_DATA_DIR": str(data),
        "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": broker,
        "SKEWLESS_HTTP_PORT": "0",
    }
    environment |= {f"SKEWLESS_{name.upper()}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, {one["check"]: (one["status"], one["found"]) for one in report["checks"]}


def test_a_working_installation_passes(data: Path, broker: str) -> None:
    code, checks = examined(data, broker)

    assert code == 0
    assert "FAIL" not in {status for status, _ in checks.values()}
    assert checks["tiers"] == ("OK", "realtime")
    assert checks["rollover"] == ("OK", "none under way")
    assert checks["live tower"][0] == checks["live release"][0] == checks["broker"][0] == "OK"


def test_an_empty_one_passes_with_warnings(tmp_path: Path, broker: str) -> None:
    code, checks = examined(tmp_path / "not" / "there", broker)

    assert code == 0
    assert checks["live towers"][0] == checks["live release"][0] == "WARN"
    assert not (tmp_path / "not").exists()


def _live_is_nonsense(data: Path) -> str:
    (data / "towers" / "LIVE").write_text("{}")
    return "artefact LIVE"


def _live_tower_is_gone(data: Path) -> str:
    version = json.loads((data / "towers" / "LIVE").read_text())[0]
    shutil.rmtree(data / "towers" / version)
    return f"artefact {version[:20]}"


def _weights_are_damaged(data: Path) -> str:
    version = json.loads((data / "towers" / "LIVE").read_text())[0]
    weights = data / "towers" / version / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return f"artefact {version[:20]}"


def _current_names_a_ghost(data: Path) -> str:
    (data / "releases" / "CURRENT").write_text("ghost\n")
    return "artefact CURRENT"


def _current_is_nonsense(data: Path) -> str:
    (data / "releases" / "CURRENT").write_text("../..\n")
    return "artefact CURRENT"


def _manifest_is_damaged(data: Path) -> str:
    release = (data / "releases" / "CURRENT").read_text().strip()
    (data / "releases" / release / "manifest.json").write_text("{}")
    return f"artefact {release[:20]}"


def _tiers_are_damaged(data: Path) -> str:
    (data / "tiers.json").write_text('{"tiers": 3}')
    return "tiers"


def _rollover_is_damaged(data: Path) -> str:
    (data / "towers" / "ROLLOVER.json").write_text("{}")
    return "rollover"


def _rollover_cannot_be_read(data: Path) -> str:
    (data / "towers" / "ROLLOVER.json").mkdir()
    return "rollover"


def _live_names_another_tower(data: Path) -> str:
    live = json.loads((data / "towers" / "LIVE").read_text())[0]
    (other,) = {path.parent.name for path in (data / "towers").glob("*/READY")} - {live}
    write_live_towers(data / "towers", [other])
    return "live release"


@pytest.mark.parametrize(
    "plant",
    [
        _live_is_nonsense,
        _live_tower_is_gone,
        _weights_are_damaged,
        _current_names_a_ghost,
        _current_is_nonsense,
        _manifest_is_damaged,
        _tiers_are_damaged,
        _rollover_is_damaged,
        _rollover_cannot_be_read,
        _live_names_another_tower,
    ],
)
def test_a_fault_in_the_data_directory_is_found(
    data: Path, broker: str, plant: Callable[[Path], str]
) -> None:
    check = plant(data)

    code, checks = examined(data, broker)

    assert code == 1
    assert checks[check][0] == "FAIL"


def test_what_mends_a_damaged_declaration_is_what_its_refusal_says(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path)
    settings.towers_dir.mkdir()
    _tiers_are_damaged(tmp_path)
    _rollover_is_damaged(tmp_path)

    tiers, rollover = declaration_findings(settings)

    assert (tiers.status, rollover.status) == ("FAIL", "FAIL")
    assert "bad_tiers" in tiers.found and tiers.fix == f"Mend {tmp_path / 'tiers.json'}."
    assert "bad_rollover" in rollover.found and "start the rollover again" in rollover.fix


def test_a_data_directory_that_cannot_be_one_is_found(tmp_path: Path, broker: str) -> None:
    (tmp_path / "file").touch()

    code, checks = examined(tmp_path / "file", broker)

    assert code == 1
    assert checks["data directory"][0] == "FAIL"


@pytest.mark.parametrize(
    ("settings", "check", "status"),
    [
        ({"kafka_bootstrap_servers": "127.0.0.1:9"}, "broker", "FAIL"),
        ({"kafka_bootstrap_servers": ""}, "broker", "WARN"),
        ({"kafka_bootstrap_servers": "kafka:9092"}, "login", "FAIL"),
        ({"kafka_security_protocol": "SASL_SSL"}, "login", "FAIL"),
        ({"kafka_security_protocol": "SSL", "kafka_ssl_ca_location": "/no/ca.pem"}, "login", "FAIL"),
        ({"kafka_sasl_mechanism": "GSSAPI"}, "settings", "FAIL"),
        ({"threads": "256"}, "threads", "WARN"),
        ({"device": "warp"}, "device", "FAIL"),
        ({"htp_port": "1"}, "settings", "FAIL"),
    ],
)
def test_a_fault_in_the_settings_is_found(
    tmp_path: Path, broker: str, settings: dict[str, str], check: str, status: str
) -> None:
    code, checks = examined(tmp_path, broker, **settings)

    assert code == (status == "FAIL")
    assert checks[check][0] == status


def test_a_port_that_somebody_else_has_is_found(tmp_path: Path, broker: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, checks = examined(tmp_path, broker, http_port=str(taken.getsockname()[1]))

    assert code == 1
    assert checks["http port"][0] == "FAIL"


def test_a_password_is_never_printed(tmp_path: Path) -> None:
    secret = "hunter2-is-no-password"
    _, checks = examined(
        tmp_path,
        "127.0.0.1:9",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_username="u",
        kafka_sasl_password=secret,
    )

    assert secret not in json.dumps(checks)
