"""What other people's producers send in one run, and when: hot keys, partial updates, poison."""

import random
from dataclasses import dataclass
from typing import Any

from schemas.codec import encode
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED

from .sim_log import Headers
from .sim_producer import partition_of

_POISON = (b"", b"{", b"null", b'{"pin_id":1}', b'{"pin_id":1,"occurred_at_ms":-1}', b"\xff\xfe", None)
MODEL_POISON = 90
"""The Pin that towers cannot embed."""


@dataclass(frozen=True)
class Sent:
    """One message on its way to a source topic."""

    at: float
    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: Headers


def workload(rng: random.Random, seconds: float, partitions: int) -> list[Sent]:
    """Bursts of events over some Pins, of which one gets half of them; in order of time."""
    pins = [10 + number for number in range(rng.randint(2, 6))]
    with_poison = rng.random() < 0.5
    sent: list[Sent] = []
    for _ in range(rng.randint(3, 8)):
        at = rng.random() * seconds
        for _ in range(rng.randint(1, 6)):
            at += rng.random() * 0.05
            pin = pins[0] if rng.random() < 0.5 else rng.choice(pins)
            sent.append(_message(rng, at, pin, partitions, with_poison))
            if rng.random() < 0.05:
                sent.append(sent[-1])
    return sorted(sent, key=lambda one: one.at)


def _message(rng: random.Random, at: float, pin: int, partitions: int, with_poison: bool) -> Sent:
    way = rng.random() if with_poison else 1.0
    if way < 0.03:
        pin = MODEL_POISON
    topic = PIN_AGGREGATED.name if rng.random() < 0.3 else PIN_CHANGED.name
    key, headers = b"%d" % pin, [("ce_id", b"%d" % rng.randrange(10**6)), ("ce_type", topic.encode())]
    partition = partition_of(key, partitions)
    if 0.03 <= way < 0.08:
        return Sent(at, topic, partition, key, rng.choice(_POISON), list(headers))
    value = encode(_event(rng, topic, pin, int(at * 1000) + rng.randint(0, 400)))
    if 0.08 <= way < 0.11:
        return Sent(at, topic, partition, b"%d" % (pin + 1000), value, list(headers))
    if 0.11 <= way < 0.13:
        return Sent(at, topic, partition, key, b'{"v":9}', [("ce_type", b"pin.changed.v9")])
    return Sent(at, topic, partition, key, value, list(headers))


def _event(rng: random.Random, topic: str, pin: int, occurred_at_ms: int) -> PinChanged | PinAggregated:
    if topic == PIN_AGGREGATED.name:
        windows = {
            name: sorted(rng.randrange(100) for _ in range(4))
            for name in ("offsite_visits", "engagements")
            if rng.random() < 0.6
        }
        return PinAggregated.model_validate({"pin_id": pin, "occurred_at_ms": occurred_at_ms} | windows)
    fields: dict[str, Any] = {
        "status": rng.choice(["active", "paused", "deleted"]),
        "title": f'Pin {rng.randrange(1000)} «é"»',
        "price_micros": rng.randrange(10**6),
        "bid_micros": rng.randrange(10**6),
        "daily_budget_micros": rng.randrange(10**6),
        "advertiser_id": rng.randrange(100),
        "coupons": [rng.randrange(5) for _ in range(3)],
        "starts_at_ms": rng.randrange(10**6),
        "ends_at_ms": rng.randrange(10**6),
    }
    chosen = {name: value for name, value in fields.items() if rng.random() < 0.35}
    return PinChanged.model_validate(chosen | {"pin_id": pin, "occurred_at_ms": occurred_at_ms})
