"""LIVE, as what the processes that follow it need of each tower: the tower itself, or its manifest."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from features.definitions import registry
from models.checkpoint import read_tower_manifest
from models.live_towers import read_live_towers
from models.predictor import PinTower
from schemas.errors import RetryableError
from schemas.manifests import TowerManifest

from .settings import Settings

log = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0
"""A candidate that cannot be loaded is tried again so often: its directory may still be on its way."""

T = TypeVar("T")


class _Followed(Generic[T]):
    """What is loaded of each version in LIVE: looks at the file whenever it is asked, loads each once.

    A version after the first that cannot be loaded is left out, and tried again a minute later: a candidate
    stops nothing.
    """

    def __init__(self, root: Path, load: Callable[[str], T], clock: Callable[[], float]) -> None:
        self._root, self._load, self._clock = root, load, clock
        self._loaded: dict[str, T] = {}
        self._try_again_at: dict[str, float] = {}

    def now(self) -> tuple[T, ...]:
        """In LIVE's order; empty without LIVE. Raises whatever loading the first one raises."""
        live = read_live_towers(self._root)
        self._try_again_at = {one: when for one, when in self._try_again_at.items() if one in live}
        loaded: dict[str, T] = {}
        for place, version in enumerate(live):
            one = self._loaded.get(version) or (self._candidate(version) if place else self._load(version))
            if one is not None:
                loaded[version] = one
        self._loaded = loaded
        return tuple(loaded.values())

    def _candidate(self, version: str) -> T | None:
        """It, or None when it cannot be loaded, which is said once."""
        if self._clock() < self._try_again_at.get(version, float("-inf")):
            return None
        try:
            one = self._load(version)
        except Exception as error:
            # NOTE: everything is caught (checksum, half a copy, another registry, memory), because it is all
            # the same to the serving tower.
            if version not in self._try_again_at:
                log.error(
                    "tower %s cannot be loaded and is left out; tried again every %.0f s: %s",
                    version[:12],
                    _RETRY_SECONDS,
                    error,
                )
            self._try_again_at[version] = self._clock() + _RETRY_SECONDS
            return None
        if self._try_again_at.pop(version, None) is not None:
            log.info("tower %s is loaded", version[:12])
        return one


class LiveTowers:
    """LIVE, as loaded towers, for an enrichment worker; see `_Followed`.

    Looking takes microseconds. A worker that took partitions over with an older LIVE would take back that
    their events are embedded with a new tower, and the batch job of a rollover would begin those again.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, device = settings.towers_dir, settings.device
        self._followed = _Followed(
            self._root, lambda version: PinTower.load(self._root, version, registry(), device), clock
        )

    def __call__(self) -> Sequence[PinTower]:
        """The towers to embed with now, the serving one first.

        Raises RetryableError when LIVE names none, because what is folded without a tower has no row, and
        Refused (or whatever loading raises) for a serving tower that does not load.
        """
        towers = self._followed.now()
        if not towers:
            raise RetryableError(f"{self._root / 'LIVE'} is not there: without a tower nothing is taken in")
        return towers


class LiveManifests:
    """LIVE, as manifests, for a cutter; see `_Followed`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        root = settings.towers_dir
        self._followed = _Followed(root, lambda version: read_tower_manifest(root, version), clock)

    def __call__(self) -> list[TowerManifest]:
        """Those that are live now, the serving one's first. Raises Refused when that is damaged."""
        return list(self._followed.now())
