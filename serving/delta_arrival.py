"""A release whose delta segment is kept new: what its segment needs of the topics, and how far it is."""

import threading
from dataclasses import dataclass, field
from typing import Protocol

from index.delta_fold import Base
from schemas.manifests import Offsets, ReleaseManifest

from .fresh_inventory import Shelf


class Followed(Protocol):
    """A release, or one shard of it, as far as its delta segment is concerned."""

    @property
    def manifest(self) -> ReleaseManifest:
        """Its manifest: the offsets that its snapshots cover, and its tower version."""
        ...

    @property
    def shelf(self) -> Shelf:
        """Where requests find the release's rows with the segment laid over them."""
        ...


@dataclass(eq=False)
class Arrival:
    """A release that was loaded, from then until it is no longer followed.

    It refers to the release's rows only through `shelf`, which closing the release empties: so an arrival
    keeps nothing large in memory.
    """

    manifest: ReleaseManifest
    shelf: Shelf
    number: int
    """Counts the releases that were loaded: the higher, the newer."""
    arrived_at_ms: int
    wanted: Offsets = field(default_factory=dict)
    """Where the topics must be read from to have everything that its snapshots do not hold."""
    caught_up: threading.Event = field(default_factory=threading.Event)
    """Set once a segment lies over it that has everything its topics held when they were last asked."""
    shown: int = -1
    """`DeltaFold.changes` as of its last segment: while that stays, no other segment is built."""

    @property
    def base(self) -> Base | None:
        """Its rows; None once it is closed."""
        return self.shelf.base()

    @property
    def version(self) -> str:
        """The tower version of its rows."""
        return self.manifest.tower_version

    @property
    def dimension(self) -> int:
        """Length of its vectors."""
        return self.manifest.index.dimension
