from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from entrypoints.settings import Settings
from entrypoints.step_rules import attribution_rules, skew_rules
from entrypoints.wiring_streams import steps
from schemas.topics import TOPICS
from streams.attribution import AttributionRules
from streams.skew_alerts import SkewRules


def test_the_settings_defaults_are_the_rules_defaults() -> None:
    assert attribution_rules(Settings.load()) == AttributionRules()
    assert skew_rules(Settings.load()) == SkewRules()


def test_seconds_become_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEWLESS_ATTRIBUTION_PURCHASE_SECONDS", "3")
    monkeypatch.setenv("SKEWLESS_SKEW_GRACE_SECONDS", "1.5")
    loaded = Settings.load()

    assert attribution_rules(loaded).windows.purchase_ms == 3_000
    assert skew_rules(loaded).grace_ms == 1_500


def test_every_step_is_made_over_its_own_directory_and_reads_topics_of_ours(tmp_path: Path) -> None:
    wanted = ["impressions", "attribution", "skew_monitor"]
    made = steps(Settings.load(data_dir=tmp_path), 0, wanted, CollectorRegistry())
    for step in made:
        step.close()

    assert [step.name for step in made] == wanted
    assert {topic for step in made for topic in step.topics} <= set(TOPICS)
