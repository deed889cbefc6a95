"""Raw messages for steps, as a broker would have them, and the messages themselves."""

from collections.abc import Sequence

from pydantic import BaseModel

from schemas.codec import encode
from schemas.events import EngagementObserved, VisitObserved
from schemas.impressions import ImpressionServed
from schemas.logs import LoggedAd, RankingLog
from streams.steps import RawEvent

VERSION_A, VERSION_B, VERSION_C = "a" * 64, "b" * 64, "c" * 64


def raw(
    message: BaseModel,
    offset: int,
    *,
    key: bytes | None = None,
    partition: int = 0,
    ingested_at_ms: int = 0,
    topic: str | None = None,
) -> RawEvent:
    """One message on its own topic. Without a key: the Pin's id."""
    key = b"%d" % getattr(message, "pin_id") if key is None else key  # noqa: B009
    name = topic or str(getattr(message, "type_name"))  # noqa: B009
    return RawEvent(name, partition, offset, ingested_at_ms, key, encode(message), [])


def served(
    served_at_ms: int, *, request: str = "r1", pin: int = 1, user: int | None = 1, position: int = 0
) -> ImpressionServed:
    return ImpressionServed(
        request_id=request,
        pin_id=pin,
        position=position,
        user_id=user,
        served_at_ms=served_at_ms,
        queried_at_ms=served_at_ms,
        release_id="20170101T00Z-1",
        snapshot_id="realtime-20170101T00Z-01234567",
        registry_hash="d" * 64,
        query_tower_version=VERSION_A,
        pin_tower_version=VERSION_A,
        query_vector="AACAPw==",
        advertiser_id=9,
        dot=0.25,
        pctr=0.125,
        bid_micros=2_000,
        price_micros=1_500,
    )


def visit(occurred_at_ms: int, *, pin: int = 1, user: int | None = 1) -> VisitObserved:
    return VisitObserved(pin_id=pin, user_id=user, occurred_at_ms=occurred_at_ms)


def bought(occurred_at_ms: int, *, pin: int = 1, user: int = 1, value: int = 3_000_000) -> EngagementObserved:
    return EngagementObserved(
        pin_id=pin, user_id=user, occurred_at_ms=occurred_at_ms, kind="purchase", value_micros=value
    )


def ranking_log(
    served_at_ms: int,
    pins: Sequence[int] = (1, 2),
    *,
    request: str = "r1",
    query_version: str = VERSION_A,
    pin_versions: Sequence[str] = (),
    tier: str = "realtime",
) -> RankingLog:
    versions = pin_versions or [query_version] * len(pins)
    return RankingLog(
        request_id=request,
        user_id=1,
        occurred_at_ms=served_at_ms - 5,
        served_at_ms=served_at_ms,
        release_id="20170101T00Z-1",
        snapshot_id=f"{tier}-20170101T00Z-01234567",
        registry_hash="d" * 64,
        query_tower_version=query_version,
        query_vector="AACAPw==",
        duration_seconds=0.005,
        stages=[],
        ads=[
            LoggedAd(
                pin_id=pin,
                advertiser_id=9,
                tower_version=version,
                dot=0.25,
                pctr=0.125,
                bid_micros=2_000,
                price_micros=1_500,
            )
            for pin, version in zip(pins, versions, strict=True)
        ],
    )
