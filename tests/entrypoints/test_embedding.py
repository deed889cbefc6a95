"""How often `skewless embed --every` embeds, and with which towers; the embedding itself is played."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from entrypoints import embedding
from entrypoints.embedding import EmbedWish, Pace, embed_every, full_version
from entrypoints.settings import Settings
from models.live_towers import write_live_towers
from schemas.errors import Refused
from schemas.tiers import Tier

A, B = "a" * 64, "b" * 64
SLOW = Tier(name="slow", policy="batch")


@dataclass
class Rounds:
    """Plays `embed_once`, on a clock that moves only when somebody waits."""

    settings: Settings
    now: float = 0.0
    embedded: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    at: dict[float, Callable[[], object]] = field(default_factory=dict)
    refusals: list[Refused] = field(default_factory=list)
    assembles: bool = True

    def once(self, settings: Settings, wish: EmbedWish, *_: object) -> list[object]:
        towers = wish.towers or embedding._live(settings)
        self.embedded.append((self.now, towers))
        if self.refusals:
            raise self.refusals.pop()
        if self.assembles:
            self.written |= set(towers)
        return []

    def pause(self, seconds: float) -> None:
        self.now += seconds
        for moment in [one for one in self.at if one <= self.now]:
            self.at.pop(moment)()

    def run(self, until: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedding, "embed_once", self.once)
        monkeypatch.setattr(
            embedding,
            "newest_of_tiers",
            lambda root, version: {"slow": version} if version in self.written else {},
        )
        pace = Pace(60.0, lambda: self.now, self.pause)
        for _ in embed_every(
            self.settings,
            EmbedWish(SLOW),
            pace,
            lambda snapshot: None,
            lambda status: None,
            lambda: self.now >= until,
        ):
            pass


@pytest.fixture
def rounds(tmp_path: Path) -> Rounds:
    settings = Settings.load(data_dir=tmp_path)
    for version in (A, B):
        (settings.towers_dir / version).mkdir(parents=True)
        (settings.towers_dir / version / "manifest.json").write_text("{}")
        (settings.towers_dir / version / "READY").write_text("")
    write_live_towers(settings.towers_dir, [A])
    return Rounds(settings)


def test_a_batch_tier_is_embedded_at_once_and_then_every_so_often(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds.run(150.0, monkeypatch)

    assert rounds.embedded == [(0.0, (A,)), (60.0, (A,)), (120.0, (A,))]


def test_a_candidate_does_not_wait_for_the_next_round(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds.at[10.0] = lambda: write_live_towers(rounds.settings.towers_dir, [A, B])

    rounds.run(100.0, monkeypatch)

    assert rounds.embedded == [(0.0, (A,)), (10.0, (B,)), (60.0, (A, B))]


def test_a_tower_whose_shards_others_have_not_finished_is_not_tried_all_the_time(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds.assembles = False

    rounds.run(35.0, monkeypatch)

    assert [moment for moment, _ in rounds.embedded] == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize("code", ["empty", "run_gone"])
def test_a_round_without_pins_or_of_an_aborted_rollover_is_not_the_end(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    rounds.refusals = [Refused(code, "", "", "")]

    rounds.run(20.0, monkeypatch)

    assert [moment for moment, _ in rounds.embedded] == [0.0, 10.0]


def test_any_other_refusal_ends_it(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds.refusals = [Refused("tower_broken", "", "", "")]

    with pytest.raises(Refused, match="tower_broken"):
        rounds.run(20.0, monkeypatch)


def test_a_tower_is_named_by_its_beginning_if_only_one_begins_so(rounds: Rounds) -> None:
    assert full_version(rounds.settings, "bb") == B
    for prefix in ("", "c"):
        with pytest.raises(Refused, match="unknown_tower"):
            full_version(rounds.settings, prefix)
