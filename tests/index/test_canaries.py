"""Canary queries: asked at the build, kept, compared with the live release, and asked again at the load."""

from pathlib import Path

import numpy as np
import pytest

from index.builder import BuildPolicy, Canaries
from index.canaries import CANARIES, Answered, read_canaries, shared_answers, write_canaries
from index.loading import load_index
from index.vector_index import ExactIndex
from schemas.errors import Refused
from tests.index.builders import REGISTRY, Workshop, reseal, rows_of, unit_vectors

QUERIES = 15 * unit_vectors(8, seed=9).astype(np.float32)
POLICY = BuildPolicy(canaries=Canaries(QUERIES, k=5))


def test_the_answers_are_kept_and_are_those_of_an_exact_scan(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    manifest = workshop.build(rows_of(400), kind="ivf", policy=POLICY)
    kept = read_canaries(workshop.releases.directory(manifest.release_id))
    exact = ExactIndex(rows_of(400).vectors)
    true = [set((1000 + exact.search(query, 5, None)[1]).tolist()) for query in QUERIES]
    hits = sum(len(one & set(pins)) for one, pins in zip(true, kept.pins.tolist(), strict=True))
    assert hits >= 0.9 * 40
    check = next(one for one in manifest.checks if one.name == "canary_queries")
    assert check.detail.startswith("overlap@5 ")
    assert check.detail.endswith("nothing live to compare with")


def test_the_overlap_with_the_live_release_is_recorded(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    first = workshop.build(rows_of(40), policy=POLICY)
    workshop.releases.publish(first.release_id, actor="test", reason="hourly")
    rows = rows_of(40)
    gone = np.isin(rows.attributes["pin_id"], _answers(workshop, first.release_id)[:, 0])
    second = workshop.build(rows.take(np.flatnonzero(~gone)), 1, policy=POLICY)
    check = next(one for one in second.checks if one.name == "canary_queries")
    mine, before = _answers(workshop, second.release_id), _answers(workshop, first.release_id)
    hits = sum(len(set(a) & set(b)) for a, b in zip(mine.tolist(), before.tolist(), strict=True))
    assert hits < 40
    assert check.detail.endswith(f"{hits / 40:.4f} of the live answers")


def _answers(workshop: Workshop, release_id: str) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    pins: np.ndarray[tuple[int, int], np.dtype[np.int64]] = read_canaries(
        workshop.releases.directory(release_id)
    ).pins
    return pins


def test_an_index_that_misses_what_real_queries_want_is_refused(tmp_path: Path) -> None:
    strict = BuildPolicy(canaries=Canaries(QUERIES, k=5, min_overlap=1.01))
    workshop = Workshop(tmp_path)
    with pytest.raises(Refused) as caught:
        workshop.build(rows_of(400), kind="ivf", policy=strict)
    assert caught.value.code == "canary_overlap"
    assert workshop.releases.list() == []


@pytest.mark.parametrize(
    ("code", "queries"),
    [
        ("not_finite", np.full((2, 8), np.nan, np.float32)),
        ("wrong_dimension", np.ones((2, 9), np.float32)),
        ("wrong_dimension", np.ones((0, 8), np.float32)),
    ],
)
def test_queries_that_are_none_are_refused(
    tmp_path: Path, code: str, queries: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    with pytest.raises(Refused, match=code):
        Workshop(tmp_path).build(rows_of(40), policy=BuildPolicy(canaries=Canaries(queries)))


def test_a_loaded_release_that_answers_differently_is_refused_though_every_checksum_is_right(
    tmp_path: Path,
) -> None:
    workshop = Workshop(tmp_path)
    release = workshop.build(rows_of(40), policy=POLICY).release_id
    load_index(workshop.releases, release, registry_hash=REGISTRY)
    directory = workshop.releases.directory(release)
    kept = read_canaries(directory)
    write_canaries(directory / CANARIES, Answered(kept.queries, np.roll(kept.pins, 1, axis=0)))
    reseal(directory)
    with pytest.raises(Refused, match="canary_answers"):
        load_index(workshop.releases, release, registry_hash=REGISTRY)


def test_a_damaged_canary_file_is_refused(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    directory = workshop.releases.directory(workshop.build(rows_of(40), policy=POLICY).release_id)
    (directory / CANARIES).write_bytes(b"nothing")
    reseal(directory)
    with pytest.raises(Refused, match="unreadable_file"):
        load_index(workshop.releases, directory.name, registry_hash=REGISTRY)


def test_canaries_do_not_change_a_release_s_name(tmp_path: Path) -> None:
    without, asked = Workshop(tmp_path / "1"), Workshop(tmp_path / "2")
    assert without.build(rows_of(40)).release_id == asked.build(rows_of(40), policy=POLICY).release_id


def test_fewer_pins_than_were_asked_for_are_compared_as_they_are() -> None:
    few = Answered(QUERIES[:1], np.array([[3, 4, -1]]))
    assert shared_answers(Answered(QUERIES[:1], np.array([[4, -1, -1]])), few) == 0.5
    assert shared_answers(few, None) is None
