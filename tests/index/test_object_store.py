"""Objects by obstore: conditional writes over S3's protocol, and every way in which a store says no."""

import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.moto_server import location, moto_server
from index import object_store
from index.object_store import Objects, S3Location, StoreRefused, memory_objects, s3_objects
from schemas.errors import Refused, RetryableError

SECRET = "planted-secret-access-key"


@pytest.fixture(scope="module")
def s3_address() -> Iterator[str]:
    with moto_server() as address:
        yield address


@pytest.fixture(params=["memory", "s3"])
def objects(request: pytest.FixtureRequest) -> Objects:
    if request.param == "memory":
        return memory_objects()
    return s3_objects(location(request.getfixturevalue("s3_address"), f"below/{request.node.name}"))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 1)


def test_an_object_is_read_as_it_was_written(objects: Objects) -> None:
    assert objects.get("a/b") is None
    objects.put("a/b", b"one")
    objects.put("a/b", b"two")
    found = objects.get("a/b")
    assert found is not None
    assert found.data == b"two"
    assert objects.ranges("a/b", [0, 1], [1, 2]) == [b"t", b"wo"]


def test_a_file_larger_than_one_part_goes_up_whole(objects: Objects, tmp_path: Path) -> None:
    content = os.urandom(6 << 20)
    (tmp_path / "large").write_bytes(content)
    objects.put("large", tmp_path / "large")
    assert [(one.key, one.size_bytes) for one in objects.list("large")] in ([], [("large", len(content))])
    assert b"".join(objects.ranges("large", [0, 5 << 20], [5 << 20, 1 << 20])) == content


def test_a_listing_is_of_whole_segments_and_says_size_and_age(objects: Objects) -> None:
    for key in ("p/1", "p/q/2", "pp/3"):
        objects.put(key, b"xy")
    listed = objects.list("p")
    assert sorted((one.key, one.size_bytes) for one in listed) == [("p/1", 2), ("p/q/2", 2)]
    assert all(one.modified_ms > 1_700_000_000_000 for one in listed)


def test_only_the_first_writes_what_must_be_absent(objects: Objects) -> None:
    assert objects.put_if_absent("once", b"one")
    assert not objects.put_if_absent("once", b"two")
    found = objects.get("once")
    assert found is not None
    assert found.data == b"one"


def test_only_who_knows_the_tag_replaces(objects: Objects) -> None:
    objects.put("pointer", b"one")
    seen = objects.get("pointer")
    assert seen is not None
    assert objects.put_if_match("pointer", b"two", seen.tag)
    assert not objects.put_if_match("pointer", b"three", seen.tag)
    assert not objects.put_if_match("nowhere", b"three", seen.tag)
    found = objects.get("pointer")
    assert found is not None
    assert found.data == b"two"


def test_what_is_deleted_is_gone_and_deleting_it_again_is_no_error(objects: Objects) -> None:
    objects.put("a", b"x")
    objects.delete(["a", "never-there"])
    objects.delete([])
    assert objects.get("a") is None


def _refusals(objects: Objects, code: str) -> list[Refused]:
    found: list[Refused] = []
    for attempt in (
        lambda: objects.get("CURRENT"),
        lambda: objects.list("releases"),
        lambda: objects.put("CURRENT", b"x"),
        lambda: objects.put_if_absent("CURRENT", b"x"),
    ):
        with pytest.raises(StoreRefused) as caught:
            attempt()
        found.append(caught.value)
    assert {refused.code for refused in found} == {code}
    return found


def test_a_missing_bucket_is_refused_by_name(s3_address: str) -> None:
    objects = s3_objects(S3Location("no-such-bucket", "p", s3_address, "us-east-1", "k", SECRET, True))
    refusals = _refusals(objects, "no_bucket")
    assert all("s3://no-such-bucket/p" in str(one) and "SKEWLESS_STORE_URL" in one.fix for one in refusals)


class _Answer(BaseHTTPRequestHandler):
    """Every request gets the same refusal, as S3 words it."""

    status, code = 403, "AccessDenied"

    def _refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whose = "<AWSAccessKeyId>key-id</AWSAccessKeyId>"
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code>{whose}</Error>"
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _refuse

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[Objects]:
    """A store that answers everything with one status and S3 error code."""
    status, code = request.param
    handler = type("Answer", (_Answer,), {"status": status, "code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        yield s3_objects(S3Location("bucket", "", address, "us-east-1", "key-id", SECRET, True))
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answering", "code"),
    [
        ((403, "AccessDenied"), "store_denied"),
        ((403, "InvalidAccessKeyId"), "store_denied"),
        ((403, "SignatureDoesNotMatch"), "store_denied"),
        ((400, "ExpiredToken"), "store_denied"),
        ((403, "RequestTimeTooSkewed"), "clock_skew"),
        ((404, "NoSuchBucket"), "no_bucket"),
    ],
    indirect=["answering"],
)
def test_a_store_that_lets_nobody_in_is_named_with_what_to_do_and_without_secrets(
    answering: Objects, code: str
) -> None:
    for refused in _refusals(answering, code):
        assert refused.fix
        assert SECRET not in str(refused)
        assert "key-id" not in str(refused)


@pytest.mark.parametrize(
    "answering", [(503, "SlowDown"), (500, "InternalError"), (400, "Odd")], indirect=True
)
def test_a_store_that_fails_is_worth_another_try(answering: Objects) -> None:
    for attempt in (lambda: answering.get("a"), lambda: answering.list("a"), lambda: answering.put("a", b"")):
        with pytest.raises(RetryableError, match=r"s3://bucket"):
            attempt()


def test_a_store_that_cannot_be_reached_is_worth_another_try() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        objects = s3_objects(S3Location("bucket", "p", address, "us-east-1", "k", SECRET, True))
        said = set()
        for _ in range(2):
            with pytest.raises(RetryableError, match="s3://bucket/p/CURRENT could not be reached") as caught:
                objects.get("CURRENT")
            said.add(str(caught.value))
    assert len(said) == 1, "the same trouble in the same words, however long it took"
    assert SECRET not in said.pop()


def test_plain_http_is_refused_unless_it_was_allowed(s3_address: str) -> None:
    objects = s3_objects(S3Location("skewless", "", s3_address, "us-east-1", "k", SECRET, allow_http=False))
    with pytest.raises(RetryableError):
        objects.get("CURRENT")


def test_nothing_shows_the_secret(s3_address: str) -> None:
    where = S3Location("bucket", "p", s3_address, "us-east-1", "key-id", SECRET, True)
    shown = repr(where) + str(where) + repr(s3_objects(where))
    assert SECRET not in shown
    assert "key-id" not in shown
