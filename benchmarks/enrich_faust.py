"""The peer: the same job as a Faust agent, written as Faust's documentation teaches.

Events are a `faust.Record` in JSON, the Pin's state is a table with a changelog topic, the agent takes
batches with `stream.take`, merges each event into its Pin's entry, embeds the batch with one forward of
the same tower and sends one row per touched Pin, acknowledged before the batch ends. Started without
its web server, with concurrency 1 and a session timeout of 10 s.

The table is in memory, which is in Faust's favour: its RocksDB table asserts on the current event, and
inside `take` there is none.
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

from features.definitions import registry
from features.pin_state import Records, empty_records
from models.predictor import PinTower

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
        datadir=str(arguments.state),
        topic_partitions=32,
        topic_allow_declare=arguments.declare,
        topic_disable_leader=True,
        broker_session_timeout=10,
        broker_commit_interval=0.5,
        producer_compression_type="lz4",
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
    )
    changed = app.topic("pin.changed.v1", key_type=bytes, value_type=PinChanged)
    embedded = app.topic("pin.embedded.v1", key_type=bytes, value_serializer="raw")
    # A batch holds several partitions' events, so the changelog partition has to come from the key.
    table = app.Table("pins", default=dict, partitions=32, use_partitioner=True)

    async def enrich(stream: Any) -> None:
        # NOTE: the table asks for the changelog's partitions, which aiokafka does not know until
        # something was sent there; an error in an agent would drop its events.
        await app.producer.send_and_wait(
            table.changelog_topic.get_topic_name(), b"-1", None, None, None, None
        )
        async for batch in stream.take(TAKE_EVENTS, within=TAKE_SECONDS):
            touched: dict[int, dict[str, Any]] = {}
            for event in batch:
                state = touched.get(event.pin_id) or table[event.pin_id]
                state |= {name: value for name, value in event.asdict().items() if value is not None}
                touched[event.pin_id] = state
            for pin, state in touched.items():
                table[pin] = state
            vectors = tower.embed(_records(touched)).vectors.astype("<f2")
            sent = [
                await embedded.send(
                    key=b"%d:%s" % (pin, tower.version[:16].encode()), value=_row(state, vector)
                )
                for (pin, state), vector in zip(touched.items(), vectors, strict=True)
            ]
            await asyncio.gather(*sent)

    def _row(state: dict[str, Any], vector: Any) -> bytes:
        row = state | {"vector": base64.b64encode(vector.tobytes()).decode(), "tower_version": tower.version}
        del row["content_embedding"]
        return json.dumps(row).encode()

    app.agent(changed, concurrency=1)(enrich)
    return app


def main() -> None:
    """Run the worker until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--towers", type=Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--declare", action="store_true", help="let Faust create its changelog topic")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    app = build_app(arguments, PinTower.load(arguments.towers, arguments.version, registry()))
    app.finalize()
    # NOTE: otherwise Faust opens port 6066 on every address of the host.
    app.conf.web_enabled = False
    faust.Worker(app, loglevel="warning").execute_from_commandline()


if __name__ == "__main__":
    main()
