"""Which store the settings mean; and a server over S3 that outlives the store's absence."""

import asyncio
import errno
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from benchmarks.moto_server import BUCKET, moto_server
from entrypoints.releasing import Releaser
from entrypoints.releasing_checks import check_release
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store, s3_location
from entrypoints.wiring import serving_parts
from index import object_releases, object_store
from index.object_releases import ObjectReleases
from index.releases import ReleaseStore
from models.live_towers import write_live_towers
from schemas.errors import Refused
from serving.app import create_app
from tests.entrypoints.world import cut, save_tower

S3 = {"store_url": "s3://bucket/some/prefix/"}


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """Settings of a store of its own."""
    with moto_server() as address:
        yield {
            "store_url": f"s3://{BUCKET}/{uuid.uuid4().hex}",
            "store_endpoint": address,
            "store_access_key_id": "test",
            "store_secret_access_key": "test",
        }


def test_without_a_url_releases_lie_in_the_data_directory(tmp_path: Path) -> None:
    store = release_store(Settings.load(data_dir=tmp_path))
    assert isinstance(store, ReleaseStore)
    assert store.root == tmp_path / "releases"


def test_a_url_names_bucket_and_prefix(tmp_path: Path) -> None:
    settings = Settings.load(
        data_dir=tmp_path,
        **S3,
        store_endpoint="http://localhost:9000",
        store_access_key_id="id",
        store_secret_access_key="secret",
    )
    where = s3_location(settings)
    assert (where.bucket, where.prefix, where.endpoint) == ("bucket", "some/prefix", "http://localhost:9000")
    assert (where.access_key_id, where.secret_access_key, where.allow_http) == ("id", "secret", True)
    assert isinstance(release_store(settings), ObjectReleases)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"store_url": "gs://bucket"}, "store_url"),
        ({"store_url": "bucket"}, "store_url"),
        ({"store_url": "s3://"}, "store_url"),
        ({"store_url": "s3://key:planted@bucket"}, "store_url"),
        (S3 | {"store_endpoint": "https://key:planted@minio:9000"}, "store_url"),
        (S3 | {"store_endpoint": "minio:9000"}, "store_endpoint"),
        (S3 | {"store_endpoint": "http://minio:9000"}, "store_plaintext"),
        (S3 | {"store_endpoint": "http://[fe80::1]:9000"}, "store_plaintext"),
        (S3 | {"store_access_key_id": "id"}, "store_key"),
        (S3 | {"store_secret_access_key": "planted"}, "store_key"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused_without_its_secrets(
    given: dict[str, str], code: str
) -> None:
    with pytest.raises(Refused) as refused:
        release_store(Settings.load(**given))
    assert refused.value.code == code
    assert "planted" not in str(refused.value)


def test_plain_http_to_another_host_has_to_be_allowed_by_name() -> None:
    endpoint = {"store_endpoint": "http://minio:9000"}
    assert s3_location(Settings.load(**S3, **endpoint, store_allow_http=True)).allow_http
    assert not s3_location(Settings.load(**S3, store_endpoint="https://minio:9000")).allow_http


async def _ask(app: FastAPI, *paths: str) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return [await client.get(path) for path in paths]


def test_a_server_over_s3_serves_what_another_machine_published_and_outlives_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "RETRIES", 0)
    builder = tmp_path / "builder"
    tower = save_tower(builder, seed=1)
    write_live_towers(builder / "towers", [tower.tower_version])
    with moto_server() as address:
        store = {
            "store_url": f"s3://{BUCKET}/e2e",
            "store_endpoint": address,
            "store_access_key_id": "test",
            "store_secret_access_key": "test",
        }
        Releaser(Settings.load(data_dir=builder, **store))(cut(builder, tower, 300))
        settings = Settings.load(data_dir=tmp_path / "server", **store)
        assert all(check.ok for check in check_release(settings, None))
        parts = serving_parts(settings, embedded_broker=False)
        swap = parts.watcher.check()
        assert swap is not None
        assert swap.result == "served"
        live = parts.live()
        assert live is not None
        assert len(live) == 300

    # The store is gone: what is served is served on, and a server that starts now begins with it.
    assert parts.watcher.check() is not None
    assert parts.live() is live
    assert parts.current() == live.release_id
    answers = asyncio.run(_ask(create_app(parts), "/v1/status", "/v1/releases"))
    assert [(one.status_code, one.headers.get("Retry-After")) for one in answers] == [(200, None), (503, "2")]
    assert answers[1].json()["type"] == "urn:skewless:problem:store-unreachable"
    parts.close()
    restarted = serving_parts(settings, embedded_broker=False)
    restarted.watcher.check()
    again = restarted.live()
    assert again is not None
    assert again.release_id == live.release_id
    restarted.close()


@pytest.mark.parametrize("full", [False, True])
def test_a_rollback_on_one_machine_reaches_a_server_on_another(
    tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Also one whose disk is full, when it has the release already."""
    builder = tmp_path / "builder"
    tower = save_tower(builder, seed=1)
    write_live_towers(builder / "towers", [tower.tower_version])
    releaser = Releaser(Settings.load(data_dir=builder, **s3))
    parts = serving_parts(Settings.load(data_dir=tmp_path / "server", **s3), embedded_broker=False)
    for hour in (0, 1):
        releaser(cut(builder, tower, 200, hour))
        parts.watcher.check()
    bad = parts.live()
    operator = release_store(Settings.load(data_dir=tmp_path / "laptop", **s3))
    operator.rollback(actor="me", reason="recall fell")

    def no_room(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if full:
        monkeypatch.setattr(object_releases, "write_atomic", no_room)
    parts.watcher.check()
    good = parts.live()
    assert bad is not None
    assert good is not None
    assert [line.release_id for line in operator.audit()] == [
        good.release_id,
        bad.release_id,
        good.release_id,
    ]
    parts.close()
