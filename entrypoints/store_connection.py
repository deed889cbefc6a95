"""Settings → where releases are kept: this machine's disk, or an object store with copies here."""

from urllib.parse import SplitResult, urlsplit

from index.object_releases import ObjectReleases, Places
from index.object_store import S3Location, s3_objects
from index.release_contract import Releases
from index.releases import ReleaseStore
from schemas.errors import Refused
from schemas.transport import masked, remote_hosts

from .settings import Settings


def release_store(settings: Settings) -> Releases:
    """The releases of every process. Connects to nothing yet. Raises Refused for a wrong address."""
    if not settings.store_url:
        return ReleaseStore(settings.releases_dir, version_policy=settings.version_policy)
    places = Places(settings.releases_dir, settings.towers_dir, settings.store_cached_releases)
    objects = s3_objects(s3_location(settings))
    return ObjectReleases(objects, places, version_policy=settings.version_policy)


def s3_location(settings: Settings) -> S3Location:
    """Where the bucket is, from the settings. Raises Refused."""
    address = _address(settings.store_url)
    if address.scheme != "s3" or not address.netloc or address.query:
        fix = "Set SKEWLESS_STORE_URL=s3://bucket/prefix, or leave it empty for the data directory."
        raise Refused("store_url", "s3://bucket or s3://bucket/prefix", repr(masked(settings.store_url)), fix)
    return S3Location(
        bucket=address.netloc,
        prefix=address.path.strip("/"),
        endpoint=settings.store_endpoint,
        region=settings.store_region,
        access_key_id=settings.store_access_key_id,
        secret_access_key=_secret(settings),
        allow_http=_allow_http(settings),
    )


def _address(url: str) -> SplitResult:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        fix = "Set SKEWLESS_STORE_ACCESS_KEY_ID and SKEWLESS_STORE_SECRET_ACCESS_KEY."
        came = f"{parts.scheme}://***@{parts.hostname}"
        raise Refused("store_url", "an address without keys, which would be printed with it", came, fix)
    return parts


def _secret(settings: Settings) -> str:
    secret = settings.store_secret_access_key.get_secret_value()
    if bool(secret) != bool(settings.store_access_key_id):
        have, lack = ("an id", "no secret") if settings.store_access_key_id else ("a secret", "no id")
        fix = "Set SKEWLESS_STORE_ACCESS_KEY_ID and SKEWLESS_STORE_SECRET_ACCESS_KEY together, or neither."
        raise Refused("store_key", "an access key with its secret", f"{have} and {lack}", fix)
    return secret


def _allow_http(settings: Settings) -> bool:
    """Plain HTTP goes to this machine only, unless it was allowed by name: releases would travel readable."""
    endpoint = _address(settings.store_endpoint)
    if not settings.store_endpoint or endpoint.scheme == "https":
        return False
    if endpoint.scheme != "http" or not endpoint.netloc:
        fix = "Set an address such as https://minio:9000, or leave it empty for Amazon."
        came = repr(masked(settings.store_endpoint))
        raise Refused("store_endpoint", "an http or https address", came, fix)
    # A port so that a bare IPv6 address is not cut at its last colon.
    remote = remote_hosts(f"[{endpoint.hostname}]:0")
    if remote and not settings.store_allow_http:
        raise Refused(
            "store_plaintext",
            expected="https to a host that is not this one",
            came=f"http to {remote[0]}",
            fix="Use https, or set SKEWLESS_STORE_ALLOW_HTTP=true.",
        )
    return True
