import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from features import transforms as t
from features.definitions import registry
from features.pin_state import empty_records, stable_hash
from features.registry import Entity, FeatureSpec
from features.user_state import CONTEXT_RECORD, empty_users

from .examples import random_records

GOLDEN = Path(__file__).parent / "golden.json"


def golden_values() -> dict[str, dict[str, object]]:
    """What `golden.json` should hold: `python -m tests.features.test_transforms` writes it."""
    values: dict[str, dict[str, object]] = {}
    for spec in registry().specs:
        output = np.ascontiguousarray(spec.transform(random_records(spec.entity)))
        digest = hashlib.sha256(output.astype(np.dtype(spec.dtype).newbyteorder("<")).tobytes()).hexdigest()
        values[spec.name] = {"version": spec.version, "sha256": digest}
    return values


@pytest.mark.parametrize("name", sorted(golden_values()))
def test_a_feature_whose_output_changes_gets_a_new_version(name: str) -> None:
    golden, now = json.loads(GOLDEN.read_text())[name], golden_values()[name]
    if golden["version"] == now["version"]:
        assert golden["sha256"] == now["sha256"], (
            f"{name} gives other values: raise its version, then run python -m tests.features.test_transforms"
        )
    assert golden == now, "run python -m tests.features.test_transforms"


def test_golden_values_hold_exactly_the_declared_features() -> None:
    assert set(json.loads(GOLDEN.read_text())) == {spec.name for spec in registry().specs}


@pytest.mark.parametrize("spec", registry().specs, ids=lambda spec: spec.name)
def test_output_has_the_declared_shape_type_and_range(spec: FeatureSpec) -> None:
    output = spec.transform(random_records(spec.entity))
    assert output.shape == (64, *spec.shape)
    assert output.dtype == np.dtype(spec.dtype)
    if spec.buckets is not None:
        assert output.min() >= 0 and output.max() < spec.buckets
    else:
        assert np.isfinite(output.astype(np.float64)).all()


@pytest.mark.parametrize("spec", registry().specs, ids=lambda spec: spec.name)
def test_one_row_at_a_time_gives_what_the_batch_gives(spec: FeatureSpec) -> None:
    records = random_records(spec.entity)
    batch = spec.transform(records)
    single = np.concatenate([spec.transform(records[i : i + 1]) for i in range(len(records))])
    assert batch.tobytes() == single.tobytes()


@pytest.mark.parametrize("spec", registry().specs, ids=lambda spec: spec.name)
def test_an_empty_batch_gives_an_empty_feature(spec: FeatureSpec) -> None:
    assert spec.transform(random_records(spec.entity, count=0)).shape == (0, *spec.shape)


@pytest.mark.parametrize(
    "spec",
    [s for s in registry().specs if s.entity is Entity.PIN and s.name != "pin_id"],
    ids=lambda s: s.name,
)
def test_a_pin_about_which_nothing_is_known_has_default_features(spec: FeatureSpec) -> None:
    assert (spec.transform(empty_records(np.arange(3))) == spec.default).all()


def test_ids_below_0_are_missing_and_others_never_are() -> None:
    hashed = t.bucket_ids(np.array([-1, 0, 1, 2**62]), 10)
    assert hashed[0] == 0 and (hashed[1:] > 0).all() and (hashed < 10).all()


def test_price_is_the_log_of_one_plus_the_price() -> None:
    records = empty_records(np.array([1]))
    records["price_micros"] = 1_000_000
    assert t.price(records)[0] == pytest.approx(np.log(2.0), rel=1e-6)


def test_display_share_is_stores_over_115() -> None:
    records = empty_records(np.array([1]))
    records["display_stores"][0, 3] = 23
    assert t.display_share(records)[0].tolist() == pytest.approx([0, 0, 0, 0.2, 0, 0, 0, 0, 0, 0])


def test_history_weights_are_shares() -> None:
    users = empty_users(np.array([1, 2]))
    users["history_scores"][0, :2] = [3.0, 1.0]
    weights = t.history_weights(users)
    assert weights[0, :3].tolist() == [0.75, 0.25, 0.0]
    assert weights[1].tolist() == [0.0] * 50


def test_the_same_demographic_value_in_two_places_is_two_ids() -> None:
    users = empty_users(np.arange(200))
    users["segments"][:, :2] = np.array([[stable_hash(str(value))] for value in range(200)])
    hashed = t.demographics(users)
    # By chance alone 200 pairs meet in one of 255 buckets less than once.
    assert (hashed[:, 0] == hashed[:, 1]).sum() <= 4
    assert (hashed[:, 2:] == 0).all()


def test_hour_of_week_starts_with_the_epochs_thursday_and_wraps_after_168_hours() -> None:
    contexts = np.zeros(4, CONTEXT_RECORD)
    hour = 3_600_000
    contexts["occurred_at_ms"] = [0, hour - 1, hour, 168 * hour]
    assert t.hour_of_week(contexts).tolist() == [1, 1, 2, 1]


def test_days_since_engagement_is_0_when_there_was_none_or_it_is_ahead() -> None:
    contexts = np.zeros(3, CONTEXT_RECORD)
    contexts["occurred_at_ms"] = 3 * 86_400_000
    contexts["last_engaged_at_ms"] = [0, 2 * 86_400_000, 4 * 86_400_000]
    assert t.days_since_engagement(contexts).tolist() == pytest.approx([0.0, np.log(2.0), 0.0])


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_values(), indent=2, sort_keys=True) + "\n")
