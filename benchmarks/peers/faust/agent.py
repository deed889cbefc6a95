"""The job as a Faust agent; concurrency 1, session timeout 10 s, started without its web server.

`table`: as its documentation teaches. Events are a `faust.Record` in JSON, the state is a table (in
memory with a changelog topic, because a RocksDB table asserts on the current event, and inside of `take`
there is none), batches come from `stream.take`, each row is sent and acknowledged before the batch ends.

`memory`: the fastest form. Raw bytes and orjson instead of records, state in a plain dict that is lost
with the process, no changelog, larger batches, rows acknowledged at the commit only.
"""

import asyncio
from typing import Any

import faust

from benchmarks.peers.arguments import WorkerArguments, parse_arguments
from benchmarks.peers.job import PARTITIONS, SOURCE, TARGET, Entry, merge, merge_all, rows
from benchmarks.peers.tower_numpy import NumpyTower

FORMS = ("table", "memory")
TAKE_EVENTS = {"table": 1024, "memory": 16_384}
TAKE_SECONDS = 0.1


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
    content_embedding: Any = None


def build_app(arguments: WorkerArguments) -> faust.App:
    """The app with its one agent."""
    app = faust.App(
        arguments.group,
        broker=f"kafka://{arguments.bootstrap_servers}",
        store="memory://",
        datadir=str(arguments.state / "faust"),
        topic_partitions=PARTITIONS,
        topic_allow_declare=False,
        topic_disable_leader=True,
        broker_session_timeout=10,
        broker_commit_interval=0.5,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
    )
    tower = NumpyTower(arguments.towers, arguments.version)
    embedded = app.topic(TARGET, key_type=bytes, value_serializer="raw")
    if arguments.form == "table":
        changed = app.topic(SOURCE, key_type=bytes, value_type=PinChanged)
        app.agent(changed, concurrency=1)(_table_agent(app, embedded, tower))
    else:
        changed = app.topic(SOURCE, key_type=bytes, value_type=bytes, value_serializer="raw")
        app.agent(changed, concurrency=1)(_memory_agent(app, tower))
    return app


def _table_agent(app: faust.App, embedded: Any, tower: NumpyTower) -> Any:
    # A batch holds several partitions' events, so the changelog partition has to come from the key.
    table = app.Table("pins", default=dict, partitions=PARTITIONS, use_partitioner=True)

    async def enrich(stream: Any) -> None:
        # NOTE: the table asks for the changelog's partitions, which aiokafka does not know until
        # something was sent there; an error in an agent would drop its events.
        topic = table.changelog_topic.get_topic_name()
        await app.producer.send_and_wait(topic, b"-1", None, None, None, None)
        async for batch in stream.take(TAKE_EVENTS["table"], within=TAKE_SECONDS):
            touched: dict[int, Entry] = {}
            for event in batch:
                entry = touched.setdefault(event.pin_id, table[event.pin_id])
                merge(entry, event.asdict())
            for pin, entry in touched.items():
                table[pin] = entry
            sent = [await embedded.send(key=key, value=value) for key, value in _made(tower, touched)]
            await asyncio.gather(*sent)

    return enrich


def _made(tower: NumpyTower, touched: dict[int, Entry]) -> list[tuple[bytes, bytes]]:
    return rows(tower, list(touched.values()))


def _memory_agent(app: faust.App, tower: NumpyTower) -> Any:
    states: dict[int, Entry] = {}

    async def enrich(stream: Any) -> None:
        async for batch in stream.take(TAKE_EVENTS["memory"], within=TAKE_SECONDS):
            sent = [
                await app.producer.send(TARGET, key, value, None, None, None)
                for key, value in rows(tower, merge_all(states, batch))
            ]
            await asyncio.gather(*sent)

    return enrich


def main() -> None:
    """Run the worker until SIGTERM."""
    arguments = parse_arguments(FORMS)
    arguments.state.mkdir(parents=True, exist_ok=True)
    app = build_app(arguments)
    app.finalize()
    # NOTE: otherwise Faust opens port 6066 on every address of the host.
    app.conf.web_enabled = False
    faust.Worker(app, loglevel="error").execute_from_commandline()


if __name__ == "__main__":
    main()
