"""What can rot is checked: settings, metrics, links, the tree and the commands that the docs name."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from entrypoints.settings import ENV_PREFIX, Settings
from features.pin_state import STATUS_CODES
from index.snapshots import ATTRIBUTES
from schemas.events import PinChanged
from serving.eligibility import Rule, rule_codes
from skewless_client import PinProducer

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(SKEWLESS_\w+)` \| (.*?) \|", page, re.MULTILINE))

    wanted = {}
    for name, field in Settings.model_fields.items():
        secret = "Secret" in type(field.default).__name__
        text = "" if secret else str(field.default)
        wanted[ENV_PREFIX + name.upper()] = f"`{text}`" if text else "(empty)"

    assert rows == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text("utf-8"))

    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_the_docs_name_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    packages = "schemas|features|datasets|models|index|streams|serving|evaluation|entrypoints|skewless_client"
    named = set(re.findall(rf"`((?:{packages}|tests|benchmarks|docs)/[\w./-]+\.(?:py|md|json|html))", text))

    assert {one for one in named if not (ROOT / one).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_modules_that_the_docs_name_exist(page: Path) -> None:
    packages = "schemas|features|datasets|models|index|streams|serving|evaluation|entrypoints|skewless_client"
    dotted = rf"`((?:{packages})(?:\.[a-z_]+)+)\.([A-Z]\w+)`"
    named = set(re.findall(dotted, page.read_text("utf-8")))

    assert {one for one in named if not hasattr(importlib.import_module(one[0]), one[1])} == set()


def test_make_targets_that_the_docs_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", page.read_text("utf-8"))}

    assert named - targets == set()


def test_commands_that_the_docs_name_exist() -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    commands = set(re.findall(r"^  ([a-z-]+)  ", help_text, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`skewless ([a-z-]+)", page.read_text("utf-8"))}

    assert commands, help_text
    assert named - commands == set()


def test_the_pin_of_the_producer_example_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page tells other teams to send is enough for an impression."""
    sent: list[PinChanged] = []
    monkeypatch.setattr(PinProducer, "__init__", lambda self, settings: None)
    monkeypatch.setattr(PinProducer, "send", lambda self, event: sent.append(event))
    monkeypatch.setattr(PinProducer, "close", lambda self: None)
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})

    pin = np.zeros(1, ATTRIBUTES)
    for event in sent:
        for name, value in event.model_dump(exclude_none=True).items():
            if name in (ATTRIBUTES.names or ()):
                pin[name] = STATUS_CODES[value] if name == "status" else value
    reserve = Settings.model_fields["reserve_price_micros"].default

    assert len(sent) == 2 and set(pin["pin_id"]) == {7}
    assert rule_codes(pin, 0, int(pin["occurred_at_ms"][0]), reserve).tolist() == [Rule.ELIGIBLE]
