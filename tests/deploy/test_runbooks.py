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


def commands(page: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Every `skewless …` of the page, in words: from its code blocks, and from its lines."""
    text = page.read_text("utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = [line.split("#")[0] for line in blocks.splitlines()]
    inline = re.findall(
        r"`(skewless [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n  ", " ")
    )
    block, line = (
        [words for one in some if (words := shlex.split(one))[:1] == ["skewless"]] for some in (lines, inline)
    )
    return block, line


def fault(words: list[str], *, whole: bool) -> str:
    """What is wrong with a command, or nothing. `whole`: it can be typed as it stands."""
    # Typer brings its own classes: what a command has decides, not what it is an instance of.
    command: Any = COMMAND
    rest = words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return f"no command {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.make_context(words[-1], list(rest))
    except Exception as wrong:
        # Some releases of Typer bring their own click, so a class is known by its name only.
        kinds = {one.__name__ for one in type(wrong).__mro__}
        if "UsageError" not in kinds:
            raise
        said: Any = wrong
        # A mere mention names a command; with an argument it is one to be typed.
        lenient = "MissingParameter" in kinds and not whole and not rest
        return "" if lenient else f"{' '.join(words)}: {said.format_message()}"
    return ""


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
    block, line = commands(page)

    assert [wrong for words in block if (wrong := fault(words, whole=True))] == []
    assert [wrong for words in line if (wrong := fault(words, whole=False))] == []
    assert block or line or "healthz" in page.read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    named = set(re.findall(rf"{ENV_PREFIX}[A-Z_]+", page.read_text("utf-8")))

    assert named <= {ENV_PREFIX + name.upper() for name in Settings.model_fields}


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert fault(["skewless", "release", "undo"], whole=True) == "no command skewless release undo"
    assert "No such option: --policy" in fault(["skewless", "recount", "--policy", "x"], whole=True)
    assert "unexpected extra argument" in fault(["skewless", "recount", "pin.changed.v1"], whole=False)
    assert "--topic" in fault(["skewless", "dlq", "replay", "pin.changed.v1"], whole=False)
    tail = ["skewless", "events", "tail"]
    assert (fault(tail, whole=False), "--topic" in fault(tail, whole=True)) == ("", True)
    assert fault(["skewless", "recount", "--json"], whole=True) == ""
