import numpy as np

from benchmarks.freshness_skew_answers import CANDIDATES, Answers, Asking, search
from benchmarks.freshness_skew_clock import Timeline
from benchmarks.freshness_skew_designs import Offline
from benchmarks.freshness_skew_figure import duration
from benchmarks.freshness_skew_rows import Shown
from benchmarks.freshness_skew_stream import Queries
from features.examples import Examples
from features.pin_state import empty_records
from features.user_state import CONTEXT_RECORD, empty_users
from schemas.manifests import Calibration

PINS, DIMENSION = 300, 4


def _queries(count: int) -> Queries:
    contexts = np.zeros(count, CONTEXT_RECORD)
    contexts["occurred_at_ms"] = np.arange(count)
    nothing = np.zeros(0, np.intp)
    examples = Examples(
        users=empty_users(np.arange(count)),
        contexts=contexts,
        query_period=np.zeros(count, np.int64),
        pins=empty_records(np.zeros(0, np.int64)),
        pin_period=np.zeros(0, np.int64),
        is_sampled=np.zeros(0, np.bool_),
        pair_query=nothing,
        pair_pin=nothing,
        catalogue_size=PINS,
    )
    return Queries(examples, [np.array([row]) for row in range(count)])


def _answers(vectors: np.ndarray, queries: np.ndarray) -> Answers:
    design = Offline("offline", Timeline(0, 10, ()), Shown(PINS, vectors.astype(np.float32)))
    asking = Asking(_queries(len(queries)), queries[None], [Calibration()], np.arange(PINS))
    return Answers(design, asking)


def test_search_finds_the_best_rows_best_first() -> None:
    vectors = np.random.default_rng(0).standard_normal((PINS, DIMENSION)).astype(np.float32)
    queries = np.random.default_rng(1).standard_normal((3, DIMENSION)).astype(np.float32)
    found, dots = search(queries, vectors, 7)
    exact = queries @ vectors.T
    assert (found == np.argsort(-exact, axis=1)[:, :7]).all()
    assert (dots == np.sort(exact, axis=1)[:, ::-1][:, :7]).all()


def test_a_question_is_answered_from_the_rows_as_they_were_when_it_was_asked() -> None:
    vectors = np.zeros((PINS, DIMENSION))
    vectors[0, 0] = 1
    answers = _answers(vectors, np.eye(2, DIMENSION, dtype=np.float32)[[0, 0]])
    answers.ask(np.array([0], np.intp))
    shown = answers.design.shown
    patch = shown.part(np.array([0, 5], np.intp))
    assert patch.vectors is not None
    patch.vectors[:, 0] = [0, 1]
    shown.write(patch)
    answers.ask(np.array([1], np.intp))
    answers.flush()
    assert answers.found[:, 0].tolist() == [0, 5]
    assert answers.recalls(np.array([0, 1], np.intp)).tolist() == [1.0, 0.0]


def test_an_answer_is_mixed_by_the_versions_of_its_twenty_ads_only() -> None:
    vectors = np.zeros((PINS, DIMENSION))
    vectors[:, 0] = -np.arange(PINS)
    answers = _answers(vectors, np.eye(1, DIMENSION, dtype=np.float32)[[0, 0]])
    answers.design.shown.codes[20] = 1
    answers.ask(np.array([0], np.intp))
    answers.flush()
    answers.design.shown.codes[19] = 1
    answers.ask(np.array([1], np.intp))
    answers.flush()
    assert answers.mixed.tolist() == [False, True]


def test_scores_are_compared_on_the_references_candidates() -> None:
    vectors = np.random.default_rng(0).standard_normal((PINS, DIMENSION)).astype(np.float32)
    reference = _answers(vectors, np.eye(1, DIMENSION, dtype=np.float32))
    other = _answers(-vectors, np.eye(1, DIMENSION, dtype=np.float32))
    other._reference = reference
    rows = np.array([0], np.intp)
    reference.ask(rows)
    other.ask(rows)
    other.flush()
    assert reference.found[0].tolist() != other.found[0].tolist()
    assert np.allclose(other.candidate_dots, -reference.candidate_dots)
    assert other.candidate_dots.shape == (1, CANDIDATES)


def test_durations_read_in_their_own_unit() -> None:
    assert [duration(value) for value in (0.57, 95, 1800, 259_200)] == ["0.57 s", "95 s", "30 min", "3.0 d"]
