import numpy as np
import pytest

from evaluation.l1_cut import L1CutPolicy, cut_recall
from index.snapshots import ATTRIBUTES
from schemas.manifests import Calibration

CALIBRATION = Calibration(slope=1.0, intercept=-2.0)


def _pins(count: int, seed: int = 0) -> tuple[np.ndarray[tuple[int], np.dtype[np.void]], np.ndarray]:
    random = np.random.default_rng(seed)
    attributes = np.zeros(count, ATTRIBUTES)
    attributes["pin_id"] = attributes["advertiser_id"] = np.arange(1, count + 1)
    attributes["bid_micros"] = random.integers(10_000, 10_010, count)
    vectors = random.standard_normal((count, 8)).astype(np.float32)
    return attributes, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_cut_that_keeps_everyone_loses_no_winner() -> None:
    attributes, vectors = _pins(50)
    recall = cut_recall(
        attributes,
        vectors,
        np.ones(50, np.bool_),
        vectors[:4] * 6,
        CALIBRATION,
        L1CutPolicy(keep=50),
        seed=1,
    )

    assert (recall.l1, recall.bid_only, recall.random) == (1.0, 1.0, 1.0)


def test_when_bids_hardly_differ_l1_keeps_the_winners_and_bids_and_chance_do_not() -> None:
    attributes, vectors = _pins(5_000)
    queries = np.random.default_rng(2).standard_normal((20, 8)).astype(np.float32) * 4

    recall = cut_recall(
        attributes,
        vectors,
        np.ones(5_000, np.bool_),
        queries,
        CALIBRATION,
        L1CutPolicy(keep=100),
        seed=1,
    )

    assert recall.l1 == 1.0
    assert recall.bid_only < 0.3
    assert recall.random < 0.3


def test_the_reference_is_not_the_cuts_own_winners() -> None:
    attributes, vectors = _pins(1_000)
    # One Pin far from every query, with a bid that no other can reach: the uncut auction sells it.
    vectors[7] = -vectors[0]
    attributes["bid_micros"][7] = 10**13

    recall = cut_recall(
        attributes,
        vectors,
        np.ones(1_000, np.bool_),
        vectors[:1] * 6,
        CALIBRATION,
        L1CutPolicy(keep=100, slots=1),
        seed=1,
    )

    assert recall.l1 == 0.0
    assert recall.bid_only == 1.0


def test_nobody_eligible_is_refused() -> None:
    attributes, vectors = _pins(3)

    with pytest.raises(ValueError, match="eligible"):
        cut_recall(
            attributes,
            vectors,
            np.zeros(3, np.bool_),
            vectors,
            CALIBRATION,
            L1CutPolicy(),
            seed=1,
        )
