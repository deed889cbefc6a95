"""What has to come out, from the events alone: one event after the other, in plain Python."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.codec import decode
from schemas.errors import InvalidMessage
from schemas.events import PinAggregated, PinChanged
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED

from .sim_log import SimMessage, SimTopics
from .sim_towers import vector_bytes
from .workload import MODEL_POISON

STATUS = {"active": 1, "paused": 2, "deleted": 3}
ROW_DEFAULTS: dict[str, Any] = {
    "status": "active",
    "title": "",
    "advertiser_id": 0,
    "price_micros": 0,
    "bid_micros": 0,
    "daily_budget_micros": 0,
    "starts_at_ms": 0,
    "ends_at_ms": 0,
    "target_ages": 0,
}
_MODELS = ((PIN_CHANGED.name, PinChanged), (PIN_AGGREGATED.name, PinAggregated))


@dataclass
class _Steps:
    """States of one Pin after each of its events on one topic: offsets, and merged fields."""

    offsets: list[int] = field(default_factory=lambda: [-1])
    states: list[dict[str, Any]] = field(default_factory=lambda: [{}])


@dataclass
class Oracle:
    """Expected states by Pin, and the messages that have to be dead-lettered by their place.

    `embeds`: whether a Pin is of a realtime tier. One that is not has no rows, and no tower turns it down.
    """

    embeds: Callable[[int], bool] = lambda pin: True
    changed: dict[int, _Steps] = field(default_factory=dict)
    aggregated: dict[int, _Steps] = field(default_factory=dict)
    partition: dict[int, int] = field(default_factory=dict)
    poison: dict[tuple[str, int, int], SimMessage] = field(default_factory=dict)

    _seen: Counter[tuple[str, int]] = field(default_factory=Counter)

    def catch_up(self, topics: SimTopics) -> None:
        """Fold what has come on the sources since the last time."""
        for topic, model in _MODELS:
            for log in topics.of(topic):
                place = (topic, log.partition)
                self._fold(topic, model, log.history[self._seen[place] :])
                self._seen[place] = len(log.history)

    def _fold(self, topic: str, model: Any, messages: Iterable[SimMessage]) -> None:
        steps = self.changed if topic == PIN_CHANGED.name else self.aggregated
        for message in messages:
            try:
                event = decode(model, message.its_value)
            except InvalidMessage:
                event = None
            if event is None or message.its_key != b"%d" % event.pin_id or self._turned_down(event.pin_id):
                self.poison[topic, message.its_partition, message.its_offset] = message
                continue
            mine = steps.setdefault(event.pin_id, _Steps())
            told = {name: value for name, value in event.model_dump().items() if value is not None}
            before = mine.states[-1]
            times = {
                "occurred_at_ms": max(before.get("occurred_at_ms", 0), told["occurred_at_ms"]),
                "ingested_at_ms": max(before.get("ingested_at_ms", 0), message.its_timestamp_ms),
            }
            mine.offsets.append(message.its_offset)
            mine.states.append(before | told | times)
            self.partition[event.pin_id] = message.its_partition

    def _turned_down(self, pin: int) -> bool:
        return pin == MODEL_POISON and self.embeds(pin)

    @property
    def embedded_pins(self) -> list[int]:
        """Those that have rows."""
        return [pin for pin in self.pins if self.embeds(pin)]

    @property
    def pins(self) -> list[int]:
        """Every Pin with an event that counts."""
        return sorted({*self.changed, *self.aggregated})

    def last(self, pin: int, before: tuple[int, int] | None = None) -> tuple[int, int]:
        """Offsets of a Pin's newest events; `before`: of those below these offsets of its partition."""
        found = []
        for place, steps in enumerate((self.changed, self.aggregated)):
            offsets = steps[pin].offsets if pin in steps else [-1]
            found.append(max(one for one in offsets if before is None or one < max(before[place], 0)))
        return found[0], found[1]

    def state(self, pin: int, changed: int, aggregated: int) -> dict[str, Any] | None:
        """A Pin's fields after these events, or None when there are no such events of it."""
        parts = []
        for steps, offset in ((self.changed, changed), (self.aggregated, aggregated)):
            mine = steps.get(pin) or _Steps()
            if offset not in mine.offsets:
                return None
            parts.append(mine.states[mine.offsets.index(offset)])
        one, other = parts
        times = {
            name: max(one.get(name, 0), other.get(name, 0)) for name in ("occurred_at_ms", "ingested_at_ms")
        }
        return one | other | times

    def row(self, version: str, pin: int, changed: int, aggregated: int) -> dict[str, Any] | None:
        """The row of pin.embedded.v1 of that state; `vector` as fp16 bytes."""
        state = self.state(pin, changed, aggregated)
        if state is None:
            return None
        shown = {name: state.get(name, default) for name, default in ROW_DEFAULTS.items()}
        return shown | {
            "pin_id": pin,
            "changed_offset": changed,
            "aggregated_offset": aggregated,
            "occurred_at_ms": state["occurred_at_ms"],
            "ingested_at_ms": state["ingested_at_ms"],
            "input_mask": pin % 7,
            "tower_version": version,
            "vector": vector_bytes(version, _numbers(state, pin)),
        }


def _numbers(state: dict[str, Any], pin: int) -> dict[str, Sequence[int]]:
    numbers: dict[str, Sequence[int]] = {
        name: value if isinstance(value, list) else (value,)
        for name, value in state.items()
        if isinstance(value, int | list)
    }
    return numbers | {"pin_id": (pin,), "status": (STATUS.get(state.get("status", ""), 0),)}
