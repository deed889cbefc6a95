"""What checkpoints say of towers, held against what lies on the topics and what was committed.

`embedded` names V: the rows of V alone hold the partition. `live` names V: the states below its
`state_offset` and the rows of V together do, whenever one looks; a batch job that embeds those states
makes V complete.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED, PIN_FEATURES, STATE_CHECKPOINTED

from .history import History
from .sim_group import Place
from .sim_log import SimMessage

At = tuple[int, int]
"""Last offsets of a Pin's two sources in a state or row; (-1, -1) for none."""

_NOTHING: At = (-1, -1)


def newest_checkpoints(history: History, partition: int | None = None) -> Iterator[dict[str, Any]]:
    """Of each partition, or of one, the checkpoint that says most, as `streams.state_topic` picks it."""
    logs = history.topics.of(STATE_CHECKPOINTED.name)
    for log in logs if partition is None else [logs[partition]]:
        said = [orjson.loads(message.its_value or b"") for message in log.records]
        if said:
            yield max(reversed(said), key=lambda one: int(one["state_offset"]))


def check_completeness(
    history: History, committed: Mapping[Place, int], partition: int | None = None
) -> None:
    """At any moment: every tower that a newest checkpoint names has what it is said to have."""
    history.oracle.catch_up(history.topics)
    for said in newest_checkpoints(history, partition):
        number = said["partition"]
        rows = history.topics.log(PIN_EMBEDDED.name, number).history
        states = _newest(
            message
            for message in history.topics.log(PIN_FEATURES.name, number).history
            if message.its_offset < said["state_offset"]
        )
        for version in said["embedded"]:
            _compare(history, f"embedded {version[0]} of {number}", _newest(rows, version), committed, number)
        for version in said["live"]:
            held = _joined(states, _newest(rows, version))
            _compare(history, f"live {version[0]} of {number}", held, committed, number)


def check_named(history: History, versions: Sequence[str]) -> None:
    """At rest: every partition's newest checkpoint names exactly the live towers."""
    for said in newest_checkpoints(history):
        if said["live"] != sorted(versions):
            history.complain("live_not_named", f"{said['partition']}: {said['live']}, live are {versions}")


def check_job(history: History, version: str, committed: Mapping[Place, int]) -> None:
    """At rest, on what compaction left: all states embedded now make the tower complete."""
    for number in range(history.topics.partitions):
        states = _newest(history.topics.log(PIN_FEATURES.name, number).records)
        rows = _newest(history.topics.log(PIN_EMBEDDED.name, number).records, version)
        _compare(history, f"the job's {version[0]} of {number}", _joined(states, rows), committed, number)


def _compare(
    history: History, what: str, held: Mapping[int, At], committed: Mapping[Place, int], number: int
) -> None:
    upto = committed.get((PIN_CHANGED.name, number), 0), committed.get((PIN_AGGREGATED.name, number), 0)
    for pin in history.oracle.embedded_pins:
        if history.oracle.partition[pin] != number:
            continue
        needed, has = history.oracle.last(pin, upto), held.get(pin, _NOTHING)
        # As in `check_snapshot`: a row of the dead may be ahead in one source and hide its successor's.
        is_ahead = has[0] >= upto[0] or has[1] >= upto[1]
        if not is_ahead and (has[0] < needed[0] or has[1] < needed[1]):
            history.complain("untrue_tower", f"{what}: Pin {pin} is at {has}, {needed} is committed")


def _newest(messages: Iterable[SimMessage], version: str | None = None) -> dict[int, At]:
    """By Pin, as readers order rows and states."""
    newest: dict[int, At] = {}
    for message in messages:
        its_version, pin, at = _place(message.its_value or b"")
        if its_version == version:
            newest[pin] = _later(newest.get(pin, _NOTHING), at)
    return newest


@functools.lru_cache(4096)
def _place(value: bytes) -> tuple[str | None, int, At]:
    """Tower version (None of a state), Pin and offsets. Cached: each is looked at over and over."""
    one = orjson.loads(value)
    return one.get("tower_version"), one["pin_id"], (one["changed_offset"], one["aggregated_offset"])


def _joined(states: Mapping[int, At], rows: Mapping[int, At]) -> dict[int, At]:
    pins = {*states, *rows}
    return {pin: _later(states.get(pin, _NOTHING), rows.get(pin, _NOTHING)) for pin in pins}


def _later(one: At, other: At) -> At:
    return max(one, other, key=_age)


def _age(at: At) -> tuple[int, At]:
    return at[0] + at[1], at
