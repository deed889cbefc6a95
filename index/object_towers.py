"""The towers of releases: in an object store, and as copies in the towers directory of this machine."""

from dataclasses import dataclass
from pathlib import Path

from schemas.artefacts import READY, read_manifest, verify_files
from schemas.errors import Refused
from schemas.manifests import TowerManifest

from .object_mirror import download, is_finished, is_whole, upload
from .object_store import Objects

TOWERS = "towers"


@dataclass(frozen=True)
class StoredTowers:
    """Towers of one store; `root` is where this machine keeps its own and its copies."""

    objects: Objects
    root: Path

    def fetch(self, version: str) -> None:
        """Bring a tower here, unless it is here whole or the store has none to bring.

        Raises Refused for a damaged one, RetryableError when the store cannot be reached.
        """
        directory = self.root / version
        if not is_whole(directory, TowerManifest) and is_finished(self.objects, f"{TOWERS}/{version}"):
            download(self.objects, f"{TOWERS}/{version}", directory, TowerManifest)

    def send(self, version: str, *, read_back: bool) -> None:
        """See to it that the store has a tower; with `read_back` what it has is compared byte by byte.

        Raises Refused for a damaged one, and (`missing_tower_files`) for one that is neither here nor there:
        no server could answer with a release of it.
        """
        directory, prefix = self.root / version, f"{TOWERS}/{version}"
        if (directory / READY).is_file():
            manifest = read_manifest(directory, TowerManifest)
            verify_files(directory, manifest.files)
            upload(self.objects, prefix, directory, manifest, read_back=read_back)
        elif not is_finished(self.objects, prefix):
            fix = f"Copy the checkpoint, with its {READY}, from where it was trained to {directory}."
            expected = f"the tower of the release in {directory} or in the store"
            raise Refused("missing_tower_files", expected, "neither", fix)
