"""Prometheus rules: each alert fires when it should, and asks for metrics that there are."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from serving.shard_telemetry import LeafTelemetry, RootTelemetry
from serving.telemetry import ServingTelemetry
from streams.attribution_telemetry import AttributionTelemetry
from streams.skew_telemetry import SkewTelemetry
from streams.snapshot_telemetry import SnapshotTelemetry
from streams.stream_telemetry import StreamTelemetry
from streams.telemetry import EnrichmentTelemetry
from tests.metrics_catalogue import PROCESSES, catalogues, metrics

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "deploy/prometheus"
GROUPS: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
CASES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text("utf-8"))["tests"]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (`make debian` installs it)"
)


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_every_alert_fires_and_stays_quiet_as_its_cases_say() -> None:
    promtool("test", "rules", "rules_test.yml")


@needs_promtool
def test_prometheus_accepts_the_configuration_and_its_rules() -> None:
    promtool("check", "config", "prometheus.yml")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    expected = {
        case["name"]: bool(one["exp_alerts"])
        for case in CASES
        for one in case["alert_rule_test"]
        if one["alertname"] == alert
    }

    assert expected == {f"{alert} fires": True, f"{alert} stays quiet": False}


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_what_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]

    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{alert}.md"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_that_a_rule_asks_for_is_in_a_catalogue(rule: dict[str, Any]) -> None:
    known = {name for metric in metrics() for name in metric.series} | RECORDED
    asked = set(re.findall(r"\bskewless[:_][\w:]+", re.sub(r'"[^"]*"', "", rule["expr"])))

    assert asked - known == set()
    assert asked or "up{" in rule["expr"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_label_that_a_rule_selects_by_is_one_of_the_metric(rule: dict[str, Any]) -> None:
    labels = {name: metric.labels for metric in metrics() for name in metric.series}
    for name, selector in re.findall(r"\b(skewless_\w+)\{([^}]*)\}", rule["expr"]):
        selected = set(re.findall(r"(\w+)=", selector))

        assert selected <= {*labels[name], "instance", "job", "le"}, name


def test_the_page_knows_every_catalogue_and_every_registered_metric() -> None:
    registry = CollectorRegistry()
    ServingTelemetry(registry)
    LeafTelemetry(registry)
    RootTelemetry(registry)
    EnrichmentTelemetry(registry)
    StreamTelemetry(registry)
    AttributionTelemetry(registry)
    SkewTelemetry(registry)
    registry.register(SnapshotTelemetry(ROOT / "no-such-directory", ROOT / "nor-this", lambda: 0.0))
    registered = {family.name + "_total" * (family.type == "counter") for family in registry.collect()}

    assert {str(path.relative_to(ROOT)) for path in catalogues()} == set(PROCESSES)
    assert {metric.name for metric in metrics()} == registered


def test_every_metric_says_what_it_means() -> None:
    assert [metric.name for metric in metrics() if len(metric.meaning) < 30] == []


def test_the_targets_are_services_that_listen_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    by_name = {job["job_name"].removeprefix("skewless-"): job for job in jobs}

    for name in ("enrich", "stream", "snapshots"):
        (replicas,) = by_name[name]["dns_sd_configs"]
        assert replicas["names"] == [name]
        command = services[name]["command"]
        assert command[command.index("--metrics-port") + 1] == str(replicas["port"])
    (serve,) = by_name["serve"]["static_configs"]
    assert serve["targets"] == [f"serve:{services['serve']['environment']['SKEWLESS_HTTP_PORT']}"]
    (root,), (leaves,) = by_name["root"]["dns_sd_configs"], by_name["leaf"]["dns_sd_configs"]
    assert root["names"] == ["root"]
    assert str(root["port"]) == services["root"]["environment"]["SKEWLESS_HTTP_PORT"]
    assert leaves["names"] == [name for name in services if name.startswith("leaf-")]
    assert {services[name]["environment"]["SKEWLESS_LEAF_PORT"] for name in leaves["names"]} == {
        str(leaves["port"])
    }
    assert set(by_name) == {"serve", "root", "leaf", "enrich", "stream", "snapshots"}
    shared = services["enrich"].get("environment", services["serve"]["environment"])
    assert shared["SKEWLESS_METRICS_HOST"] == "0.0.0.0"
