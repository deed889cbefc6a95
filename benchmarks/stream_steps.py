"""The attribution step and the skew monitor alone, without Kafka: events a second, and bytes in the state.

`python -m benchmarks.stream_steps` prints one JSON object. One process; messages are made beforehand.
"""

import base64
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from schemas.codec import encode
from schemas.events import VisitObserved
from schemas.logs import LoggedAd, RankingLog
from streams.attribution import AttributionRules, AttributionStep
from streams.attribution_telemetry import AttributionTelemetry
from streams.impressions import ImpressionsStep, impressions_of
from streams.skew_alerts import SkewRules
from streams.skew_monitor import SkewMonitorStep
from streams.skew_telemetry import SkewTelemetry
from streams.steps import RawEvent, Step

START_MS = 1_700_000_000_000
ADS, LOGS, BATCH, DIMENSION = 10, 5_000, 1_000, 64


def ranking_logs() -> list[RankingLog]:
    """Answers of ten ads, a millisecond apart, each with a query vector of its own."""
    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((LOGS, DIMENSION)).astype("<f4")
    pins = generator.integers(0, 1_000_000, (LOGS, ADS))
    return [
        RankingLog(
            request_id=f"{number:032x}",
            user_id=number % 2_000,
            occurred_at_ms=START_MS + number,
            served_at_ms=START_MS + number,
            release_id="20231114T22Z-01234567",
            snapshot_id="realtime-20231114T22Z-01234567",
            registry_hash="d" * 64,
            query_tower_version="a" * 64,
            query_vector=base64.b64encode(vectors[number].tobytes()).decode(),
            duration_seconds=0.002,
            stages=[],
            ads=[
                LoggedAd(
                    pin_id=pin,
                    advertiser_id=pin % 100,
                    tower_version="a" * 64,
                    dot=0.5,
                    pctr=0.01,
                    bid_micros=5_000,
                    price_micros=4_000,
                )
                for pin in pins[number].tolist()
            ],
        )
        for number in range(LOGS)
    ]


def raw(topic: str, messages: Sequence[BaseModel], key: Callable[[Any], object]) -> list[RawEvent]:
    """Messages of one partition."""
    return [
        RawEvent(topic, 0, offset, 0, str(key(one)).encode(), encode(one), [])
        for offset, one in enumerate(messages)
    ]


def events_per_second(step: Step, events: Sequence[RawEvent]) -> float:
    """Apply them in batches, with a tick after each."""
    begun = time.perf_counter()
    for start in range(0, len(events), BATCH):
        step.apply(events[start : start + BATCH])
        step.tick(START_MS + start)
    return len(events) / (time.perf_counter() - begun)


def size_bytes(folder: Path) -> int:
    """Table files on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*.sst"))


def measure(root: Path) -> dict[str, object]:
    """Every figure."""
    logs = ranking_logs()
    as_logs = raw("ranking.logged.v1", logs, lambda one: one.request_id)
    shown = [one for log in logs for one in impressions_of(log)]
    as_shown = raw("impression.served.v1", shown, lambda one: one.pin_id)
    visits = [
        VisitObserved(pin_id=one.pin_id, user_id=one.user_id, occurred_at_ms=one.served_at_ms + 5)
        for one in shown[::10]
    ]
    monitor = SkewMonitorStep(root / "skew", SkewRules(), SkewTelemetry(CollectorRegistry()))
    impressions = ImpressionsStep(root / "impressions")
    rules = AttributionRules()
    attribution = AttributionStep(root / "attribution", rules, AttributionTelemetry(CollectorRegistry()))
    result: dict[str, object] = {
        "message_bytes": {
            "ranking_log": len(as_logs[0].value or b""),
            "impression": len(as_shown[0].value or b""),
        },
        "skew_monitor_logs_per_second": round(events_per_second(monitor, as_logs)),
        "impressions_logs_per_second": round(events_per_second(impressions, as_logs)),
        "attribution_impressions_per_second": round(events_per_second(attribution, as_shown)),
        "attribution_visits_per_second": round(
            events_per_second(attribution, raw("visit.observed.v1", visits, lambda one: one.pin_id))
        ),
        "open_impressions": len(shown),
    }
    attribution.compact()
    result["state_bytes_per_open_impression"] = round(size_bytes(root / "attribution") / len(shown))
    result |= closing(attribution, rules)
    attribution.tick(START_MS)  # What was given out last leaves the outbox.
    attribution.compact()
    result["state_bytes_after_closing"] = size_bytes(root / "attribution")
    for step in (monitor, impressions, attribution):
        step.close()
    return result


def closing(step: AttributionStep, rules: AttributionRules) -> dict[str, object]:
    """All windows end: one event far ahead on each topic, then ticks until nothing is left."""
    end_ms = START_MS + 3 * rules.windows.longest_ms
    pin = b"0"
    ends = {
        topic: json.dumps({"pin_id": 0, "user_id": 1, "occurred_at_ms": end_ms, "kind": "click"}).encode()
        for topic in ("visit.observed.v1", "engagement.observed.v1")
    }
    last = impressions_of(ranking_logs()[0])[0].model_copy(
        update={"pin_id": 0, "request_id": "end", "served_at_ms": end_ms}
    )
    ends["impression.served.v1"] = encode(last)
    begun, rows, converted = time.perf_counter(), 0, 0
    results = [
        step.apply([RawEvent(topic, 0, 10_000_000, 0, pin, value, [])]) for topic, value in ends.items()
    ]
    while not rows or results[-1].more:
        results.append(step.tick(START_MS))
        rows = sum(len(one.outputs) for one in results)
    converted = sum(b'"converted":true' in one.value for result in results for one in result.outputs)
    seconds = time.perf_counter() - begun
    return {"rows": rows, "converted": converted, "rows_per_second": round(rows / seconds)}


def main() -> None:
    """Run it in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder)), indent=2))


if __name__ == "__main__":
    main()
