"""The job in Quix Streams.

`docs`: as its documentation teaches. JSON topics, `sdf.apply(..., stateful=True)` with the Pin's entry in
the keyed state (RocksDB and a changelog topic), one forward of the tower per event, `to_topic`.

`buffer`: the fastest form. Values stay bytes, a list is filled by hand and worked off 16,384 at a time with
one forward, and rows go out through a producer of one's own in one call. It keeps no state at all: what
an event leaves out is lost, which the benchmark's events do not do. Offsets are committed on a timer,
also of events that are still in the list, so a crash loses those.
"""

import contextlib
import signal
from typing import Any

from confluent_kafka import Producer
from quixstreams import Application, State

from benchmarks.peers.arguments import WorkerArguments, parse_arguments
from benchmarks.peers.job import SOURCE, TARGET, Entry, embedded, key, merge, merge_all, rows
from benchmarks.peers.tower_numpy import NumpyTower

FORMS = ("docs", "buffer")
BUFFER_EVENTS = 16_384
COMMIT_SECONDS = 0.5


def build_app(arguments: WorkerArguments) -> Application:
    """The application with its one dataframe."""
    app = Application(
        broker_address=arguments.bootstrap_servers,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        commit_interval=COMMIT_SECONDS,
        state_dir=arguments.state,
        consumer_extra_config={"session.timeout.ms": 10_000, "fetch.wait.max.ms": 100},
        producer_extra_config=_producer(),
        loglevel="WARNING",
    )
    tower = NumpyTower(arguments.towers, arguments.version)
    if arguments.form == "docs":
        _docs(app, tower)
    else:
        _buffer(app, arguments, tower)
    return app


def _producer() -> dict[str, Any]:
    return {"linger.ms": 10, "compression.type": "lz4", "queue.buffering.max.messages": 500_000}


def _docs(app: Application, tower: NumpyTower) -> None:
    changed = app.topic(SOURCE, key_deserializer="str", value_deserializer="json")
    target = app.topic(TARGET, key_serializer="bytes", value_serializer="json")

    def enrich(event: Entry, state: State) -> Entry:
        entry = state.get("pin", {})
        merge(entry, event)
        state.set("pin", entry)
        return embedded(tower, entry)

    enriched = app.dataframe(changed).apply(enrich, stateful=True)
    enriched.to_topic(target, key=lambda row: key(row["pin_id"], row["tower_version"]))


def _buffer(app: Application, arguments: WorkerArguments, tower: NumpyTower) -> None:
    changed = app.topic(SOURCE, key_deserializer="bytes", value_deserializer="bytes")
    producer = Producer(_producer() | {"bootstrap.servers": arguments.bootstrap_servers})
    waiting: list[bytes] = []

    def add(value: bytes) -> None:
        waiting.append(value)
        if len(waiting) < BUFFER_EVENTS:
            return
        entries = merge_all({}, waiting)
        waiting.clear()
        for row_key, row in rows(tower, entries):
            producer.produce(TARGET, row, row_key)
        producer.poll(0)

    app.dataframe(changed).update(add)


def main() -> None:
    """Run the application until SIGTERM."""
    app = build_app(parse_arguments(FORMS))
    signal.signal(signal.SIGTERM, lambda number, frame: app.stop())
    with contextlib.suppress(KeyboardInterrupt):
        app.run()


if __name__ == "__main__":
    main()
