"""The packages of the `registry` extra: imported when they are needed, missed by name."""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import Refused


@contextmanager
def require_extra() -> Iterator[None]:
    """Around an import of such a package. Raises Refused that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise Refused(
            "registry_extra",
            expected="the packages that read a schema registry, Avro and Protobuf",
            came=f"no module {missing.name}",
            fix="In a clone: pip install '.[registry]'; or set no SKEWLESS_SCHEMA_REGISTRY_URL.",
        ) from missing
