"""Where alerts go."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .test_rules import ALERTS

CONFIG = Path(__file__).parent.parent.parent / "deploy/alertmanager/alertmanager.yml"
ROUTES: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))


@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed (package alertmanager)")
def test_alertmanager_accepts_the_configuration() -> None:
    done = subprocess.run(
        ["amtool", "check-config", str(CONFIG)], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_severity_has_a_route_to_a_receiver_that_is_there() -> None:
    routed = {
        re.fullmatch(r'severity="(\w+)"', route["matchers"][0])[1]: route["receiver"]  # type: ignore[index]
        for route in ROUTES["route"]["routes"]
    }
    receivers = {one["name"] for one in ROUTES["receivers"]}

    assert {rule["labels"]["severity"] for rule in ALERTS.values()} == set(routed)
    assert {*routed.values(), ROUTES["route"]["receiver"]} == receivers
    assert routed["page"] == "page"


def test_addresses_are_in_files_of_their_own_and_explained() -> None:
    text = CONFIG.read_text("utf-8")
    files = {hook["url_file"] for one in ROUTES["receivers"] for hook in one.get("webhook_configs", ())}

    assert "url:" not in text
    for file in files:
        assert f"#   {Path(file).name}" in text


def test_inhibitions_name_alerts_that_there_are() -> None:
    for rule in ROUTES["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            names = re.fullmatch(r'alertname=~?"([\w|]+)"', matcher)
            assert names is not None
            assert set(names[1].split("|")) <= set(ALERTS)
