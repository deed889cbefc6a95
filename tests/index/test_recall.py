"""The batched exact scan finds what the oracle finds, across chunks, and the share counts equals."""

import numpy as np

from index.recall import exact_best, share_found
from index.vector_index import ExactIndex
from tests.index.builders import unit_vectors


def test_the_batched_scan_agrees_with_the_oracle_over_several_chunks() -> None:
    vectors = np.tile(unit_vectors(1000, seed=3), (140, 1))  # three chunks, every row 140 times
    vectors[77_777] = 2 * vectors[5]
    queries = vectors[[5, 10]].astype(np.float32)
    dots, positions = exact_best(vectors, queries, 7)
    oracle = ExactIndex(vectors)
    for query, mine in zip(queries, dots, strict=True):
        assert np.allclose(mine, oracle.search(query, 7, None)[0], atol=1e-6)
    assert positions[0, 0] == 77_777
    assert exact_best(vectors[:4], queries, 7)[1].shape == (2, 4)


def test_a_row_as_near_as_the_last_true_one_counts_and_a_nearer_one_does_not_count_twice() -> None:
    queries = np.eye(2, dtype=np.float32)
    answers = {0: [0.9, 0.5, 0.5], 1: [0.9, 0.2, 0.1]}
    worst = np.array([0.5, 0.3], np.float32)

    def search(query: np.ndarray, k: int, allowed: object) -> tuple[np.ndarray, np.ndarray]:
        assert (k, allowed) == (3, None)
        return np.array(answers[int(query.argmax())], np.float32), np.arange(3)

    assert share_found(search, queries, worst, 3, 1000) == 4 / 6
