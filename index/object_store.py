"""An object store as little as a release needs of it: whole objects, and writes that only one writer wins.

Everything that is said to obstore (S3 and what speaks like it) is said here.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore, S3Store

from schemas.errors import Refused, RetryableError

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 60.0
"""Of one request, so of one range of a download: 8 MiB in a minute is slower than any store worth having."""
RETRIES = 3
RETRY_SECONDS = 10.0
"""After so long the caller is told; a server asks again by itself, and serves on meanwhile."""


class StoreRefused(Refused):
    """The store answers, and says no: bucket, credentials or clock. It may pass, when somebody sees to it."""


@dataclass(frozen=True)
class Content:
    """A small object whole. `tag` changes with the content (HTTP's ETag)."""

    data: bytes
    tag: str


@dataclass(frozen=True)
class Listed:
    """An object in a listing. `key` is the whole key."""

    key: str
    size_bytes: int
    modified_ms: int


class Objects(Protocol):
    """Objects by key. Every method raises StoreRefused or RetryableError when the store cannot be used.

    NOTE: after a RetryableError from a write nobody knows whether it happened: read before you go on.
    The same holds for a False, which a repeated request gets when its first try was applied and not heard of.
    """

    @property
    def address(self) -> str:
        """What tells this store from any other: what is kept of one is not taken for another's."""
        ...

    def get(self, key: str) -> Content | None:
        """A whole object; None when there is none."""
        ...

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Parts of an object, fetched side by side. The caller knows that it is there and how long."""
        ...

    def list(self, prefix: str) -> list[Listed]:
        """Everything below `prefix` (a whole path segment)."""
        ...

    def put(self, key: str, content: bytes | Path) -> None:
        """Write, whatever is there. Readers see the old object or the new one."""
        ...

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Write unless there is one; says whether it was written."""
        ...

    def put_if_match(self, key: str, content: bytes, tag: str) -> bool:
        """Replace the object that has this tag; says whether it was replaced."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Delete; what is not there is no error."""
        ...


@dataclass(frozen=True)
class S3Location:
    """Where a bucket is and how to get in. An empty endpoint is Amazon's own.

    Without keys obstore finds credentials as AWS's own tools do (role of the machine, AWS_… variables).
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""
    allow_http: bool = False

    def __repr__(self) -> str:
        return f"S3Location(s3://{self.bucket}/{self.prefix} at {self.endpoint or 'AWS'})"


def s3_objects(location: S3Location) -> "ObstoreObjects":
    """Objects below a prefix of an S3 bucket. Connects at the first request, not here."""
    keys: dict[str, Any] = {}
    if location.access_key_id:
        keys = {
            "access_key_id": location.access_key_id,
            "secret_access_key": location.secret_access_key,
        }
    if location.endpoint:
        keys["endpoint"] = location.endpoint
    store = S3Store(
        location.bucket,
        prefix=location.prefix or None,
        region=location.region,
        client_options={
            "allow_http": location.allow_http,
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "timeout": timedelta(seconds=REQUEST_SECONDS),
        },
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
        **keys,
    )
    name = f"s3://{location.bucket}/{location.prefix}".rstrip("/")
    return ObstoreObjects(store, name, location.endpoint.rstrip("/"))


def memory_objects(name: str = "memory") -> "ObstoreObjects":
    """Objects of this process alone, for tests."""
    return ObstoreObjects(MemoryStore(), name)


class ObstoreObjects:
    """`Objects` over one of obstore's stores.

    NOTE: obstore's LocalStore cannot replace an object by its tag, so it is none of them; a directory is
    what `ReleaseStore` is for.
    """

    def __init__(self, store: S3Store | MemoryStore, name: str, endpoint: str = "") -> None:
        self._store = store
        self._name = name
        self._endpoint = endpoint

    def __repr__(self) -> str:
        return f"ObstoreObjects({self._name})"

    @property
    def address(self) -> str:
        """See `Objects`."""
        return f"{self._name} at {self._endpoint or 'AWS'}"

    def get(self, key: str) -> Content | None:
        """See `Objects`."""
        with self._errors(key):
            try:
                result = obstore.get(self._store, key)
                return Content(bytes(result.bytes()), result.meta["e_tag"] or "")
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """See `Objects`."""
        with self._errors(key):
            parts = obstore.get_ranges(self._store, key, starts=starts, lengths=lengths, coalesce=0)
            return [bytes(part) for part in parts]

    def list(self, prefix: str) -> list[Listed]:
        """See `Objects`."""
        with self._errors(prefix):
            return [
                Listed(one["path"], one["size"], int(one["last_modified"].timestamp() * 1000))
                for page in obstore.list(self._store, prefix, chunk_size=1000)
                for one in page
            ]

    def put(self, key: str, content: bytes | Path) -> None:
        """See `Objects`."""
        with self._errors(key):
            obstore.put(self._store, key, content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """See `Objects`."""
        with self._errors(key):
            try:
                obstore.put(self._store, key, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def put_if_match(self, key: str, content: bytes, tag: str) -> bool:
        """See `Objects`."""
        with self._errors(key):
            try:
                obstore.put(self._store, key, content, mode={"e_tag": tag})
            except PreconditionError:
                return False
            return True

    def delete(self, keys: Sequence[str]) -> None:
        """See `Objects`."""
        if keys:
            with self._errors(keys[0]):
                obstore.delete(self._store, list(keys))

    def _check_bucket(self, error: Exception) -> None:
        if _code(str(error)) == "NoSuchBucket":
            raise self._failure("", error) from error

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Name what went wrong by what to do about it."""
        try:
            yield
        # Beside its own, obstore raises built-in ones: FileNotFoundError, ValueError, OSError, TimeoutError.
        except (BaseError, OSError, ValueError) as error:
            raise self._failure(key, error) from error

    def _failure(self, key: str, error: Exception) -> Refused | RetryableError:
        where = f"{self._name}/{key}".rstrip("/")
        text = str(error)
        code = _code(text)
        if code == "NoSuchBucket":
            fix = "Create the bucket, or correct SKEWLESS_STORE_URL."
            return StoreRefused("no_bucket", f"the bucket of {self._name}", "there is none", fix)
        if code == "RequestTimeTooSkewed":
            fix = "Set this machine's clock (NTP): the store refuses requests signed 15 minutes off."
            return StoreRefused("clock_skew", f"{self._name} to accept the time of a request", code, fix)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in _DENIED:
            fix = "Check SKEWLESS_STORE_ACCESS_KEY_ID, its secret and what the key may do in the bucket."
            return StoreRefused("store_denied", f"to be let in at {where}", code or "access denied", fix)
        if isinstance(error, FileNotFoundError):
            fix = "Publish the release again from where it was built."
            return Refused("missing_object", where, "no such object", fix)
        return RetryableError(
            f"{where} could not be reached or did not answer as asked: {_short(text, code)}"
        )


_DENIED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)


def _code(text: str) -> str:
    """S3's own error code, which stands in the body of its answer."""
    found = re.search(r"<Code>(\w{1,60})</Code>", text)
    return found.group(1) if found else ""


_HOW_LONG = re.compile(r" in [0-9.]+(?:ns|µs|us|ms|s)\b|,? after [0-9]+ retr(?:y|ies)\b")
"""How long obstore tried and how often: it would make the same trouble read as another one each time."""


def _short(text: str, code: str) -> str:
    # NOTE: never the whole text: an answer can carry the key id and the string that was to be signed.
    return code or _HOW_LONG.sub("", text.partition("\n")[0].partition(": <?xml")[0])[:300]
