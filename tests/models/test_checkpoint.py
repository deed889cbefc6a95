import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from features.definitions import registry
from features.registry import FeatureRegistry
from models.checkpoint import (
    WEIGHTS,
    CheckpointNotes,
    load_towers,
    read_tower_manifest,
    save_checkpoint,
    tower_version,
)
from models.towers import TowerConfig, TwoTower, fresh_towers
from schemas.artefacts import MANIFEST, READY, _ready_bytes, file_entry, manifest_bytes
from schemas.errors import Refused
from schemas.manifests import Calibration, TowerManifest

CONFIG = TowerConfig(dimension=8, hidden=8)
NOTES = CheckpointNotes(
    registry_hash=registry().content_hash,
    trained_from_ms=1,
    trained_until_ms=2,
    seed=5,
    calibration=Calibration(slope=2.0, intercept=-1.0),
    metrics={"recall_at_20": 0.25},
)


def towers(seed: int = 0) -> TwoTower:
    return fresh_towers(registry(), CONFIG, seed)


def forged(root: Path, manifest: TowerManifest, weights: dict[str, torch.Tensor], **changes: object) -> str:
    """A checkpoint whose checksums and version are right, whatever its content. Returns the version."""
    staged = root / "forged"
    staged.mkdir()
    save_file(weights, staged / WEIGHTS)
    entry = file_entry(staged / WEIGHTS)
    document = manifest.model_dump(mode="json") | changes | {"files": [entry.model_dump()]}
    document["tower_version"] = tower_version(entry.sha256, document)
    text = manifest_bytes(TowerManifest.model_validate(document))
    (staged / MANIFEST).write_bytes(text)
    (staged / READY).write_bytes(_ready_bytes(text))
    version = str(document["tower_version"])
    staged.rename(root / version)
    return version


def refusal(root: Path, version: str, features: FeatureRegistry | None = None) -> str:
    with pytest.raises(Refused) as caught:
        load_towers(root, version, features or registry())
    return caught.value.code


def test_what_was_saved_is_loaded_again_bit_for_bit(tmp_path: Path) -> None:
    model = towers()
    manifest = save_checkpoint(tmp_path, model, NOTES)
    loaded, read = load_towers(tmp_path, manifest.tower_version, registry())
    assert read == manifest
    assert (read.calibration.slope, read.metrics, read.seed) == (2.0, {"recall_at_20": 0.25}, 5)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    one = save_checkpoint(tmp_path / "a", towers(), NOTES).tower_version
    again = save_checkpoint(tmp_path / "b", towers(), NOTES).tower_version
    other_weights = save_checkpoint(tmp_path / "c", towers(seed=1), NOTES).tower_version
    other_registry = save_checkpoint(
        tmp_path / "d", towers(), replace(NOTES, registry_hash="0" * 64)
    ).tower_version
    assert one == again
    assert len({one, other_weights, other_registry}) == 3


def test_saving_the_same_towers_twice_leaves_one_checkpoint(tmp_path: Path) -> None:
    version = save_checkpoint(tmp_path, towers(), NOTES).tower_version
    assert save_checkpoint(tmp_path, towers(), NOTES).tower_version == version
    assert [path.name for path in tmp_path.iterdir()] == [version]


@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST, READY])
def test_a_flipped_bit_is_refused(tmp_path: Path, name: str) -> None:
    version = save_checkpoint(tmp_path, towers(), NOTES).tower_version
    path = tmp_path / version / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refusal(tmp_path, version) == "bad_checksum"


def test_a_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    version = save_checkpoint(tmp_path, towers(), NOTES).tower_version
    (tmp_path / version).rename(tmp_path / ("0" * 64))
    with pytest.raises(Refused, match="renamed"):
        read_tower_manifest(tmp_path, "0" * 64)


def test_an_edited_config_no_longer_matches_the_version(tmp_path: Path) -> None:
    manifest = save_checkpoint(tmp_path, towers(), NOTES)
    directory = tmp_path / manifest.tower_version
    document = json.loads((directory / MANIFEST).read_text())
    document["config"]["temperature"] = 0.5
    text = manifest_bytes(TowerManifest.model_validate(document))
    (directory / MANIFEST).write_bytes(text)
    (directory / READY).write_bytes(_ready_bytes(text))
    assert refusal(tmp_path, manifest.tower_version) == "tower_version"


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "f" * 64) == "not_ready"


def test_another_registry_is_refused(tmp_path: Path) -> None:
    version = save_checkpoint(tmp_path, towers(), NOTES).tower_version
    specs = list(registry().specs)
    other = FeatureRegistry([replace(specs[0], version=2), *specs[1:]])
    assert refusal(tmp_path, version, other) == "registry_mismatch"


def test_weights_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    manifest = save_checkpoint(tmp_path, towers(), NOTES)
    weights = load_file(tmp_path / manifest.tower_version / WEIGHTS)
    missing = {name: value for name, value in weights.items() if name != "pin.out.bias"}
    narrow = weights | {"pin.out.bias": torch.zeros(3)}
    extra = weights | {"pin.more": torch.zeros(3)}
    halves = weights | {"pin.out.bias": weights["pin.out.bias"].half()}
    for content in (missing, narrow, extra, halves):
        assert refusal(tmp_path, forged(tmp_path, manifest, content)) == "tower_weights"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_loaded_nor_saved(tmp_path: Path, bad: float) -> None:
    manifest = save_checkpoint(tmp_path, towers(), NOTES)
    weights = load_file(tmp_path / manifest.tower_version / WEIGHTS)
    weights["pin.out.bias"][0] = bad
    assert refusal(tmp_path, forged(tmp_path, manifest, weights)) == "tower_weights"
    model = towers()
    with torch.no_grad():
        model.ids.weight[7, 0] = bad
    with pytest.raises(Refused, match=r"ids\.weight"):
        save_checkpoint(tmp_path / "bad", model, NOTES)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"family": "three-tower"}, "tower_family"),
        ({"config": {"dimension": 8, "heads": 4}}, "tower_config"),
        ({"dimension": 16}, "tower_inputs"),
        ({"pin_inputs": ["pin_id"]}, "tower_inputs"),
    ],
)
def test_a_tower_of_another_make_is_refused(tmp_path: Path, changes: dict[str, object], code: str) -> None:
    manifest = save_checkpoint(tmp_path, towers(), NOTES)
    weights = load_file(tmp_path / manifest.tower_version / WEIGHTS)
    assert refusal(tmp_path, forged(tmp_path, manifest, weights, **changes)) == code
