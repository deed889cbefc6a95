"""Runbooks: one for each alert, with commands that can be typed."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from entrypoints.cli import app
from entrypoints.settings import ENV_PREFIX, Settings

from .test_rules import ALERTS

RUNBOOKS = Path(__file__).parent.parent.parent / "docs/runbooks"
PAGES = sorted(RUNBOOKS.glob("*.md"))
SECTIONS = [
    "What it means for users",
    "First look",
    "Causes, the likeliest first",
    "What to do",
    "How to know that it is over",
]
COMMAND = typer.main.get_command(app)


def commands(page: Path) -> list[list[str]]:
    """Every `skewless …` of the page, in words: from its code blocks and from its lines."""
    text = page.read_text("utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = [line.split("#")[0] for line in blocks.splitlines()]
    inline = re.findall(
        r"`(skewless [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n  ", " ")
    )
    return [words for line in [*lines, *inline] if (words := shlex.split(line))[:1] == ["skewless"]]


def unknown(words: list[str]) -> str:
    """What is wrong with a command, or nothing."""
    # Typer brings its own classes: what a command has decides, not what it is an instance of.
    command: Any = COMMAND
    rest = words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return f"no command {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    options = {
        name
        for one in command.params
        if one.param_type_name == "option"
        for name in (*one.opts, *one.secondary_opts)
    }
    strange = [word for word in rest if word.startswith("--") and word not in options]
    return f"no option {strange} of {' '.join(words)}" if strange else ""


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert {page.stem for page in PAGES} == set(ALERTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_has_the_same_sections_and_its_severity(page: Path) -> None:
    text = page.read_text("utf-8")
    opening = {"page": "Page.", "ticket": "Ticket.", "info": "For the record."}

    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert text.splitlines()[0] == f"# {page.stem}"
    assert text.splitlines()[2].startswith(opening[ALERTS[page.stem]["labels"]["severity"]])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    found = commands(page)

    assert [fault for words in found if (fault := unknown(words))] == []
    assert found or "healthz" in page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    named = set(re.findall(rf"{ENV_PREFIX}[A-Z_]+", page.read_text("utf-8")))

    assert named <= {ENV_PREFIX + name.upper() for name in Settings.model_fields}


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert unknown(["skewless", "release", "undo"]) == "no command skewless release undo"
    assert unknown(["skewless", "recount", "--policy", "x"]).startswith("no option")
    assert unknown(["skewless", "recount", "--json"]) == ""
