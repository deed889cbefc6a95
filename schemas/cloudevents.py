"""CloudEvents attributes as Kafka headers (binary mode of the CloudEvents Kafka binding)."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

SPEC_VERSION = b"1.0"
CONTENT_TYPE = b"application/json"

_YEAR_10000_MS = 253_402_300_800_000
"""The first moment that a `datetime` cannot hold."""

Headers = list[tuple[str, bytes]]


def cloudevent_headers(*, event_id: str, source: str, type_name: str, time_iso: str) -> Headers:
    """Headers of one event. `source` + `id` name the event: the same pair again is a duplicate."""
    return [
        ("ce_specversion", SPEC_VERSION),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type_name.encode()),
        ("ce_time", time_iso.encode()),
        ("content-type", CONTENT_TYPE),
    ]


def read_headers(headers: Iterable[tuple[str, bytes | None]] | None) -> Mapping[str, str]:
    """Header name -> text; undecodable bytes are replaced, never raised on."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in headers or ()}


def iso(epoch_ms: int) -> str:
    """A moment as `ce_time` has it: UTC, to the millisecond; empty for none (below 0).

    A number that is no moment, such as one in microseconds, stays a number (`1500000000000000 ms`).
    """
    if epoch_ms < 0:
        return ""
    if epoch_ms >= _YEAR_10000_MS:
        return f"{epoch_ms} ms"
    moment = datetime.fromtimestamp(epoch_ms // 1000, UTC).replace(microsecond=epoch_ms % 1000 * 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
