from dataclasses import replace

from datasets.attributed_columns import COLUMNS, TRAIN_ONLY, lineage
from features.definitions import registry
from features.registry import FeatureRegistry, Path
from schemas.impressions import ImpressionAttributed


def paths(of: FeatureRegistry) -> dict[str, str | None]:
    return {one["column"]: one["serving_path"] for one in lineage(of)}


def test_every_column_is_identity_label_or_says_who_serves_it() -> None:
    for one in lineage(registry()):
        assert one["source"]
        assert (one["serving_path"] is None) == (one["role"] in ("identity", "label"))


def test_everything_that_was_logged_is_in_the_table() -> None:
    assert set(ImpressionAttributed.model_fields) <= {one.name for one in COLUMNS}


def test_a_feature_that_no_serving_path_has_is_flagged_from_the_registry() -> None:
    trained_only = FeatureRegistry(
        replace(spec, paths=frozenset({Path.TRAINING})) if spec.name == "advertiser" else spec
        for spec in registry().specs
    )

    assert paths(registry())["advertiser_id"] == "l1_embedding"
    assert paths(trained_only)["advertiser_id"] == TRAIN_ONLY


def test_what_is_known_only_after_ranking_is_for_training_only() -> None:
    assert {paths(registry())[name] for name in ("position", "price_micros")} == {TRAIN_ONLY}
