"""The peer: the same job as a Faust agent, written as Faust's documentation teaches.

Events are a `faust.Record` in JSON, the agent takes
batches with `stream.take`, merges each event into its Pin's entry, embeds the batch with one forward of
the same tower and sends one row per touched Pin, acknowledged before the batch ends. Started without
its web server, with concurrency 1 and a session timeout of 10 s.

Its state comes in two forms. `table`: a table as the documentation has it, in memory with a changelog
topic (a RocksDB table asserts on the current event, and inside `take` there is none). `store`: no
table, the entries as JSON in a RocksDB of its own, one multi-get and one write-batch per batch, which
is the fastest form that keeps state on disk.
"""

import argparse
import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import faust
import numpy as np
import torch
from rocksdict import Options, Rdict, WriteBatch

from features.definitions import registry
from features.pin_state import Records, empty_records
from models.predictor import PinTower

States = dict[int, dict[str, Any]]

TAKE_EVENTS = 1024
TAKE_SECONDS = 0.1

_NUMBERS = (
    "advertiser_id", "price_micros", "bid_micros", "daily_budget_micros", "starts_at_ms", "occurred_at_ms",
    "interest_targeting", "auto_targeting", "display_stores",
)  # fmt: skip


class PinChanged(faust.Record, serializer="json"):
    """The fields that the benchmark's events have."""

    pin_id: int
    occurred_at_ms: int
    status: str | None = None
    advertiser_id: int | None = None
    price_micros: int | None = None
    bid_micros: int | None = None
    daily_budget_micros: int | None = None
    starts_at_ms: int | None = None
    interest_targeting: bool | None = None
    auto_targeting: bool | None = None
    display_stores: list[int] | None = None
    content_embedding: str | None = None


def _records(states: dict[int, dict[str, Any]]) -> Records:
    """The tower's input from the table's entries."""
    records = empty_records(np.array(list(states), np.int64))
    for name in _NUMBERS:
        records[name] = [state[name] for state in states.values()]
    packed = b"".join(base64.b64decode(state["content_embedding"]) for state in states.values())
    records["content_embedding"] = np.frombuffer(packed, "<f2").reshape(len(records), -1)
    return records


def build_app(arguments: argparse.Namespace, tower: PinTower) -> faust.App:
    """The app with its one agent."""
    app = faust.App(
        arguments.group,
        broker=f"kafka://{arguments.bootstrap_servers}",
        store="memory://",
        datadir=str(arguments.state / "faust"),
        topic_partitions=32,
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_session_timeout=10,
        broker_commit_interval=0.5,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
    )
    changed = app.topic("pin.changed.v1", key_type=bytes, value_type=PinChanged)
    embedded = app.topic("pin.embedded.v1", key_type=bytes, value_serializer="raw")
    states = _Store(arguments.state) if arguments.form == "store" else _Table(app)

    async def enrich(stream: Any) -> None:
        await states.open()
        async for batch in stream.take(TAKE_EVENTS, within=TAKE_SECONDS):
            touched = states.read({event.pin_id for event in batch})
            for event in batch:
                set_fields = {name: value for name, value in event.asdict().items() if value is not None}
                touched[event.pin_id] |= set_fields
            states.write(touched)
            vectors = tower.embed(_records(touched)).vectors.astype("<f2")
            sent = [
                await embedded.send(key=_key(pin, tower.version), value=_row(state, vector, tower.version))
                for (pin, state), vector in zip(touched.items(), vectors, strict=True)
            ]
            await asyncio.gather(*sent)

    app.agent(changed, concurrency=1)(enrich)
    return app


class _Table:
    """Pin id -> entry in a Faust table."""

    def __init__(self, app: faust.App) -> None:
        # A batch holds several partitions' events, so the changelog partition has to come from the key.
        self._app, self._table = app, app.Table("pins", default=dict, partitions=32, use_partitioner=True)

    async def open(self) -> None:
        # NOTE: the table asks for the changelog's partitions, which aiokafka does not know until
        # something was sent there; an error in an agent would drop its events.
        topic = self._table.changelog_topic.get_topic_name()
        await self._app.producer.send_and_wait(topic, b"-1", None, None, None, None)

    def read(self, pins: set[int]) -> States:
        return {pin: self._table[pin] for pin in pins}

    def write(self, states: States) -> None:
        for pin, state in states.items():
            self._table[pin] = state


class _Store:
    """Pin id -> entry as JSON in RocksDB."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = Rdict(str(folder / "pins"), options=Options(raw_mode=True))

    async def open(self) -> None:
        """Nothing to wait for."""

    def read(self, pins: set[int]) -> States:
        found: Any = self._db.get([b"%d" % pin for pin in pins])
        return {pin: json.loads(value) if value else {} for pin, value in zip(pins, found, strict=True)}

    def write(self, states: States) -> None:
        batch = WriteBatch(raw_mode=True)
        for pin, state in states.items():
            batch.put(b"%d" % pin, json.dumps(state).encode())
        self._db.write(batch)


def _key(pin: int, version: str) -> bytes:
    return f"{pin}:{version[:16]}".encode()


def _row(state: dict[str, Any], vector: Any, version: str) -> bytes:
    row = state | {"vector": base64.b64encode(vector.tobytes()).decode(), "tower_version": version}
    del row["content_embedding"]
    return json.dumps(row).encode()


def main() -> None:
    """Run the worker until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--towers", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--form", choices=["table", "store"], required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.state.mkdir(parents=True, exist_ok=True)
    app = build_app(arguments, PinTower.load(arguments.towers, arguments.version, registry()))
    app.finalize()
    # NOTE: otherwise Faust opens port 6066 on every address of the host.
    app.conf.web_enabled = False
    faust.Worker(app, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main()
