from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features import transforms
from features.definitions import registry
from features.pin_state import PIN_RECORD, empty_records
from features.registry import Entity, FeatureRegistry, FeatureSpec, Path
from schemas.errors import Refused


def _price(**changes: Any) -> FeatureSpec:
    return replace(registry()["price"], **changes)


def test_the_hash_is_the_same_for_the_same_declarations() -> None:
    assert FeatureRegistry([_price()]).content_hash == FeatureRegistry([_price()]).content_hash
    assert len(registry().content_hash) == 64


def _other_transform(records: Any) -> Any:
    return transforms.price(records)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "prices"},
        {"entity": Entity.USER},
        {"transform": _other_transform},
        {"dtype": "int64"},
        {"shape": (1,)},
        {"paths": frozenset({Path.TRAINING})},
        {"source": ("bid_micros",)},
        {"buckets": 7},
        {"default": 1.0},
        {"version": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_changes_with_every_part_of_a_declaration(change: dict[str, Any]) -> None:
    assert FeatureRegistry([_price(**change)]).content_hash != FeatureRegistry([_price()]).content_hash


def test_prose_does_not_change_the_hash() -> None:
    prose = _price(doc="other words", owner="somebody else")
    assert FeatureRegistry([prose]).content_hash == FeatureRegistry([_price()]).content_hash


def test_the_hash_changes_when_a_feature_is_added_or_moved() -> None:
    price, brand = registry()["price"], registry()["brand"]
    hashes = {FeatureRegistry(specs).content_hash for specs in ([price], [price, brand], [brand, price])}
    assert len(hashes) == 3


def test_a_name_is_declared_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        FeatureRegistry([_price(), _price(version=2)])


def test_an_unknown_feature_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused) as caught:
        registry()["prize"]
    assert caught.value.code == "unknown_feature"
    assert "price" in caught.value.expected and "prize" in caught.value.came


def test_another_registry_is_refused_by_name_of_the_artefact() -> None:
    registry().check_hash(registry().content_hash, "tower")
    with pytest.raises(Refused, match=r"0000.* in tower 5") as caught:
        registry().check_hash("0" * 64, "tower 5")
    assert caught.value.code == "registry_mismatch"


def test_path_and_entity_select_features_in_declaration_order() -> None:
    served = registry().on_path(Path.L1_EMBEDDING, Entity.PIN)
    declared = [spec for spec in registry().specs if spec.entity is Entity.PIN]
    assert list(served) == declared
    assert registry().on_path(Path.L2, Entity.PIN) == ()


def _coverage(features: FeatureRegistry, records: Any, name: str) -> float:
    """Share of the Pins whose embedding gets the feature, by the input mask of what is on the L1 path."""
    served = [spec.name for spec in features.on_path(Path.L1_EMBEDDING, Entity.PIN)]
    if name not in served:
        return 0.0
    mask = features.input_mask(served, features.compute(served, records))
    return float(((mask >> served.index(name)) & 1).mean())


@pytest.mark.parametrize("flag", ["interest_targeting", "search_term_targeting", "auto_targeting"])
def test_a_targeting_flag_covers_nothing_before_its_family_is_onboarded_and_its_pins_after(flag: str) -> None:
    onboarded = registry()
    not_yet = FeatureRegistry(
        replace(spec, paths=frozenset({Path.TRAINING})) if spec.name == "targeting_flags" else spec
        for spec in onboarded.specs
    )
    records = empty_records(np.arange(4))
    assert _coverage(onboarded, records, "targeting_flags") == 0.0
    records[flag][:3] = 1
    assert _coverage(not_yet, records, "targeting_flags") == 0.0
    assert _coverage(onboarded, records, "targeting_flags") == 0.75
    assert not_yet.content_hash != onboarded.content_hash, "a tower of the one is refused with the other"


def test_bit_i_of_the_mask_is_the_i_th_named_feature() -> None:
    records = empty_records(np.arange(2))
    records["price_micros"] = [0, 5_000_000]
    records["offsite_visits"][0] = [0, 0, 0, 9]
    names = ("price", "brand", "offsite_visits")
    values = registry().compute(names, records)
    assert registry().input_mask(names, values).tolist() == [0b100, 0b001]


@pytest.mark.parametrize("spec", registry().specs, ids=lambda spec: spec.name)
def test_a_feature_says_what_it_reads_and_what_it_gives(spec: FeatureSpec) -> None:
    assert spec.doc and spec.owner and spec.source
    if spec.entity is Entity.PIN:
        assert set(spec.source) <= set(PIN_RECORD.names or ())


def test_the_registry_is_one_object_per_process() -> None:
    make: Callable[[], FeatureRegistry] = registry
    assert make() is make()
