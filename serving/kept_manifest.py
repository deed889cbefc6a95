"""The manifest of the release that a root loaded last, on its own disk: all that a root has of a release."""

import logging
from pathlib import Path

from pydantic import ValidationError

from schemas.artefacts import write_atomic
from schemas.manifests import ReleaseManifest

log = logging.getLogger(__name__)

KEPT_NAME = ".root-manifest.json"


class KeptManifest:
    """One small file below the releases directory, read when the store is away."""

    def __init__(self, releases_root: Path) -> None:
        self._path = releases_root / KEPT_NAME

    def keep(self, manifest: ReleaseManifest) -> None:
        """Put it in the place of the last one. A disk that cannot be written to is said in the log only."""
        try:
            write_atomic(self._path, manifest.model_dump_json().encode())
        except OSError as error:
            log.warning(
                "a restart without the store will not have release %s: %s", manifest.release_id, error
            )

    def read(self) -> ReleaseManifest | None:
        """The last one; None when there is none, or none that can be read."""
        try:
            return ReleaseManifest.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s cannot be read: %s", self._path, error)
            return None
