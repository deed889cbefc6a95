"""Checkpoints: one directory a tower version, weights in safetensors, checked before they are parsed."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from features.registry import FeatureRegistry
from schemas.artefacts import (
    file_entry,
    naming,
    publish_staged,
    read_manifest,
    staged,
    verify_files,
    write_manifest,
)
from schemas.errors import Refused
from schemas.manifests import Calibration, TowerManifest

from .towers import FAMILY, TowerConfig, TwoTower

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class CheckpointNotes:
    """What a manifest says beside the weights. Only `registry_hash` takes part in the version."""

    registry_hash: str
    trained_from_ms: int
    trained_until_ms: int
    seed: int
    calibration: Calibration = field(default_factory=Calibration)
    metrics: dict[str, float] = field(default_factory=dict)


def tower_version(weights_sha256: str, manifest: TowerManifest | dict[str, object]) -> str:
    """sha256 over everything that decides a vector: weights, family, config, registry, inputs, sizes."""
    document = manifest if isinstance(manifest, dict) else manifest.model_dump(mode="json")
    names = (
        "family",
        "dimension",
        "normalised",
        "registry_hash",
        "query_inputs",
        "pin_inputs",
        "config",
    )
    decisive = {name: document[name] for name in names} | {"weights_sha256": weights_sha256}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def save_checkpoint(root: Path, model: TwoTower, notes: CheckpointNotes) -> TowerManifest:
    """Write `root/<tower_version>/`, all of it or nothing; returns its manifest.

    The same weights under the same registry get the same version. Raises Refused for weights that are
    not finite, and when that version is there with another calibration or other metrics.
    """
    weights = {name: value.detach().to("cpu").contiguous() for name, value in model.state_dict().items()}
    _check_finite(weights, "the model to save")
    with staged(root) as directory:
        with naming(directory / WEIGHTS, SafetensorError):
            save_file(weights, directory / WEIGHTS)
        entry = file_entry(directory / WEIGHTS)
        decisive: dict[str, object] = {
            "family": FAMILY,
            "dimension": model.config.dimension,
            "normalised": True,
            "registry_hash": notes.registry_hash,
            "query_inputs": list(model.inputs.query_names),
            "pin_inputs": list(model.inputs.pin_names),
            "config": model.config.as_dict(),
        }
        manifest = TowerManifest.model_validate(
            {
                **decisive,
                "tower_version": tower_version(entry.sha256, decisive),
                "calibration": notes.calibration,
                "trained_from_ms": notes.trained_from_ms,
                "trained_until_ms": notes.trained_until_ms,
                "seed": notes.seed,
                "metrics": notes.metrics,
                "files": [entry],
            }
        )
        write_manifest(directory, manifest)
        publish_staged(directory, root / manifest.tower_version)
    return manifest


def read_tower_manifest(root: Path, version: str) -> TowerManifest:
    """The manifest of a checkpoint whose every file has been checked against it.

    Raises Refused for a missing, unfinished, damaged or renamed checkpoint.
    """
    directory = root / version
    manifest = read_manifest(directory, TowerManifest)
    verify_files(directory, manifest.files)
    hashes = {entry.name: entry.sha256 for entry in manifest.files}
    content = tower_version(hashes.get(WEIGHTS, ""), manifest)
    if not version == manifest.tower_version == content:
        raise Refused(
            "tower_version",
            expected=f"a checkpoint of version {version}",
            came=f"manifest {manifest.tower_version}, content {content}",
            fix="The directory was renamed or its manifest edited: restore it, or train again.",
        )
    return manifest


def load_towers(root: Path, version: str, registry: FeatureRegistry) -> tuple[TwoTower, TowerManifest]:
    """Both towers of a checkpoint, on the CPU, in evaluation mode.

    Raises Refused for anything that does not fit this code and this registry.
    """
    manifest = read_tower_manifest(root, version)
    registry.check_hash(manifest.registry_hash, f"tower {version[:12]}")
    if manifest.family != FAMILY:
        raise Refused(
            "tower_family", FAMILY, manifest.family, "Deploy the code that this tower was made with."
        )
    model = _blank(registry, manifest)
    weights = load_file(root / version / WEIGHTS)
    _check_shapes(weights, model.state_dict(), version)
    _check_finite(weights, f"tower {version[:12]}")
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False)
    return model.eval(), manifest


def _blank(registry: FeatureRegistry, manifest: TowerManifest) -> TwoTower:
    """A model of the manifest's sizes, its tables not yet filled. Raises Refused for a foreign config."""
    try:
        config = TowerConfig(**manifest.config)  # type: ignore[arg-type]
        model = TwoTower(registry, config)
    except (TypeError, RuntimeError, ValueError) as error:
        raise Refused(
            "tower_config",
            expected=f"the settings of {FAMILY}",
            came=f"{manifest.config} ({error})",
            fix="Deploy the code that this tower was made with.",
        ) from error
    inputs = ([*model.inputs.query_names], [*model.inputs.pin_names])
    if (manifest.query_inputs, manifest.pin_inputs) != inputs or manifest.dimension != config.dimension:
        raise Refused(
            "tower_inputs",
            expected=f"inputs {inputs} and {config.dimension} dimensions",
            came=f"{(manifest.query_inputs, manifest.pin_inputs)} and {manifest.dimension}",
            fix="Train again with this code.",
        )
    return model


def _check_shapes(weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], version: str) -> None:
    expected = {name: (tuple(value.shape), value.dtype) for name, value in wanted.items()}
    came = {name: (tuple(value.shape), value.dtype) for name, value in weights.items()}
    wrong = sorted(name for name in expected | came if expected.get(name) != came.get(name))
    if wrong:
        name = wrong[0]
        raise Refused(
            "tower_weights",
            expected=f"{name} as {expected.get(name)}",
            came=f"{came.get(name)} in tower {version[:12]} ({len(wrong)} differ)",
            fix="The weights are of another model: train again with this code.",
        )


def _check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    for name, value in weights.items():
        # The smallest and the largest are NaN when any is; `isfinite` would hold two copies of a table.
        if value.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(value))).all()):
            raise Refused(
                "tower_weights",
                expected=f"finite numbers in {name}",
                came=f"NaN or infinity in {where}",
                fix="Train again with lower learning rates.",
            )
