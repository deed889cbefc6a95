"""How often `skewless embed --every` embeds, and with which towers; the embedding itself is played."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from entrypoints import embedding
from entrypoints.embedding import CandidateRefused, EmbedWish, Pace, embed_every, embed_once, full_version
from entrypoints.settings import Settings
from models.live_towers import write_live_towers
from schemas.errors import Refused
from schemas.tiers import Tier
from streams.batch_embedder import Embedded

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
    refused_candidate: str = ""
    wish: EmbedWish = field(default_factory=lambda: EmbedWish(SLOW))
    yielded: list[Any] = field(default_factory=list)

    def once(self, settings: Settings, wish: EmbedWish, *_: object) -> list[object]:
        towers = wish.towers or embedding._live(settings)
        self.embedded.append((self.now, towers))
        if self.refusals:
            raise self.refusals.pop()
        if self.refused_candidate in towers:
            done: list[Any] = ["the serving tower's"] if A in towers else []
            raise CandidateRefused(Refused("tower_broken", "", "", ""), done)
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
        for done in embed_every(
            self.settings,
            self.wish,
            pace,
            lambda snapshot: None,
            lambda status: None,
            lambda: self.now >= until,
        ):
            self.yielded.append(done)


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


def test_a_candidate_that_is_refused_waits_for_the_next_round_and_the_serving_tower_goes_on(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds.refused_candidate = B
    write_live_towers(rounds.settings.towers_dir, [A, B])

    rounds.run(100.0, monkeypatch)

    assert rounds.embedded == [(0.0, (A, B)), (60.0, (A, B))]
    assert rounds.yielded == [["the serving tower's"], ["the serving tower's"]]


def test_a_candidate_that_was_asked_for_by_name_ends_it_when_it_is_refused(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds.refused_candidate = B
    rounds.wish = EmbedWish(SLOW, (B,))

    with pytest.raises(Refused, match="tower_broken"):
        rounds.run(100.0, monkeypatch)


def test_a_round_embeds_with_every_tower_before_it_says_which_candidate_was_refused(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_live_towers(rounds.settings.towers_dir, [A, B])
    asked: list[str] = []

    def embed_with(settings: Settings, wish: EmbedWish, version: str, *_: object) -> Embedded:
        asked.append(version)
        if version == broken:
            raise Refused("tower_broken", "", version, "")
        return Embedded(version[:1], 1, [], 1, {}, 0, None)

    monkeypatch.setattr(embedding, "_embed_with", embed_with)

    def once(*towers: str) -> list[Embedded]:
        wish = EmbedWish(SLOW, towers)
        return embed_once(rounds.settings, wish, lambda one: None, lambda one: None, lambda: False)

    broken = B
    with pytest.raises(CandidateRefused, match="tower_broken") as refused:
        once(B, A)
    assert (asked, [one.run_id for one in refused.value.done]) == ([B, A], ["a"])
    asked.clear()
    broken = A
    with pytest.raises(Refused, match="tower_broken"):
        once()
    assert asked == [A]


def test_a_tower_is_named_by_its_beginning_if_only_one_begins_so(rounds: Rounds) -> None:
    assert full_version(rounds.settings, "bb") == B
    for prefix in ("", "c"):
        with pytest.raises(Refused, match="unknown_tower"):
            full_version(rounds.settings, prefix)
