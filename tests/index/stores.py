"""The same workshop over each kind of release store, and objects that fail on purpose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from index.object_releases import ObjectReleases, Places
from index.object_store import Content, Listed, Objects
from index.release_contract import Releases
from schemas.artefacts import file_entry, publish_directory, write_manifest
from schemas.errors import RetryableError
from tests.index.builders import TOWER_A, TOWER_B, Workshop, tower_of

WEIGHTS = "weights.safetensors"


def put_tower(towers: Path, version: str) -> None:
    """A finished checkpoint with something in its file, for releases of this tower."""

    def write(directory: Path) -> None:
        (directory / WEIGHTS).write_bytes(version.encode())
        entry = file_entry(directory / WEIGHTS)
        write_manifest(directory, tower_of(version).model_copy(update={"files": [entry]}))

    publish_directory(towers / version, write)


@dataclass
class StoreWorkshop(Workshop):
    """A workshop whose releases are in an object store; it has their towers."""

    objects: Objects | None = None
    grace_seconds: float = 3600.0
    cached_releases: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.releases = self.elsewhere(self.root)
        for version in (TOWER_A, TOWER_B):
            put_tower(self.root / "towers", version)

    def elsewhere(self, data: Path, objects: Objects | None = None) -> ObjectReleases:
        """The store as another machine sees it, with a disk of its own."""
        found = objects or self.objects
        assert found is not None
        places = Places(data / "releases", data / "towers", self.cached_releases, self.grace_seconds)
        return ObjectReleases(found, places, self._now_ms)


@dataclass
class Flaky:
    """Objects over others; `trouble` is asked before and after each operation and may raise."""

    inner: Objects
    trouble: Callable[[str, str, str], None] = lambda moment, operation, key: None
    calls: list[tuple[str, str]] = field(default_factory=list)

    def _around(self, operation: str, key: str, do: Callable[[], object]) -> object:
        self.trouble("before", operation, key)
        done = do()
        self.calls.append((operation, key))
        self.trouble("after", operation, key)
        return done

    @property
    def address(self) -> str:
        return self.inner.address

    def get(self, key: str) -> Content | None:
        return self._around("get", key, lambda: self.inner.get(key))  # type: ignore[return-value]

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        return self._around("ranges", key, lambda: self.inner.ranges(key, starts, lengths))  # type: ignore[return-value]

    def list(self, prefix: str) -> list[Listed]:
        return self._around("list", prefix, lambda: self.inner.list(prefix))  # type: ignore[return-value]

    def put(self, key: str, content: bytes | Path) -> None:
        self._around("put", key, lambda: self.inner.put(key, content))

    def put_if_absent(self, key: str, content: bytes) -> bool:
        return bool(self._around("put_if_absent", key, lambda: self.inner.put_if_absent(key, content)))

    def put_if_match(self, key: str, content: bytes, tag: str) -> bool:
        return bool(self._around("put_if_match", key, lambda: self.inner.put_if_match(key, content, tag)))

    def delete(self, keys: Sequence[str]) -> None:
        self._around("delete", ",".join(keys), lambda: self.inner.delete(keys))


class FailAt:
    """Trouble at one step of many: the store goes away before or after operation number `step`."""

    def __init__(self, moment: str, step: int, *, for_good: bool) -> None:
        self.moment, self.step, self.for_good = moment, step, for_good
        self.count = 0
        self.failed = False
        self.over = False

    def __call__(self, moment: str, operation: str, key: str) -> None:
        if self.over or moment != self.moment:
            return
        self.count += 1
        if self.count - 1 == self.step or (self.failed and self.for_good):
            self.failed = True
            raise RetryableError(f"{operation} {key} did not answer")


def ids_of(releases: Releases) -> list[str]:
    """Of every move, which release it made live."""
    return [line.release_id for line in releases.audit()]
