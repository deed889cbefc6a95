"""The Faust app: its settings, each with its reason, and how it is run. Nothing is made at import time.

The app is started from here and never by `faust worker`, which opens a web server on every address of the
host whatever the settings say.
"""

import asyncio
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from faust.types.auth import CredentialsT

from .faust_loop import FaustLoop
from .kafka import KafkaSettings
from .kafka_security import aiokafka_security
from .steps import Step

log = logging.getLogger(__name__)

App = faust.App

_REQUEST_SECONDS = 40.0


@dataclass(frozen=True)
class AppSettings:
    """What an app needs beside the broker. `folder` is for Faust's own few files."""

    folder: Path
    group: str = "skewless-stream"
    commit_seconds: float = 1.0


def group_of(prefix: str, steps: Sequence[Step]) -> str:
    """Consumer group of an app with these steps: each choice of steps keeps offsets of its own."""
    return "-".join([prefix, *sorted(step.name for step in steps)])


def build_app(
    settings: KafkaSettings, steps: Sequence[Step], loops: Sequence[FaustLoop], app_settings: AppSettings
) -> faust.App:
    """An app with one agent per loop; `loops` drive `steps`, whose names make the group's."""
    app = faust.App(
        group_of(app_settings.group, steps),
        broker=";".join(f"kafka://{one.strip()}" for one in settings.bootstrap_servers.split(",")),
        broker_client_id=settings.client_id,
        datadir=str(app_settings.folder),
        # State is ours, in RocksDB beside its positions. Faust's tables write the two apart.
        store="memory://",
        # Faust's transactions do not work (crash at start, fencing loops, duplicates); what has to happen
        # once happens once because the steps fold by offset.
        processing_guarantee="at_least_once",
        # A killed worker's partitions are somebody else's after this; Faust's own default is 60 s.
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.heartbeat_interval_ms / 1000,
        # How long the group waits for a member that is alive to finish its batch and join.
        broker_rebalance_timeout=3 * settings.session_timeout_ms / 1000,
        broker_request_timeout=max(_REQUEST_SECONDS, settings.session_timeout_ms / 1000),
        broker_commit_interval=app_settings.commit_seconds,
        consumer_auto_offset_reset="earliest",
        # Shutdown and rebalance wait for the batch that is under way, so that it need not be repeated.
        stream_wait_empty=True,
        # NOTE: not 0, although there are no tables: without stand-bys Faust takes aiokafka's round-robin
        # assignor, which does not give partition n of every topic to the same process.
        table_standby_replicas=1,
        # Topics are made by `skewless topics`, with our partitions and retention. The embedded broker has
        # no admin API, so neither Faust's declarations nor its leader topic would come into being.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # Nothing is pickled, and nothing is decoded by Faust at all.
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        web_in_thread=False,
        worker_redirect_stdouts=False,
        autodiscover=False,
        broker_credentials=_credentials(settings),
    )
    for loop in loops:
        loop.register(app)
    return app


def _credentials(settings: KafkaSettings) -> CredentialsT | None:
    """TLS and SASL as the other clients have them; what is printed of it names the user and no password."""
    security = aiokafka_security(settings)
    context = security.get("ssl_context")
    if "sasl_mechanism" in security:
        return faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            ssl_context=context,
            mechanism=security["sasl_mechanism"],
        )
    return faust.SSLCredentials(context) if context else None


async def run_apps(apps: Sequence[faust.App], loops: Sequence[FaustLoop], stop: asyncio.Event) -> None:
    """Run until `stop`, then finish the batches under way, commit, leave the group and close the stores.

    Raises RuntimeError when an app ends by itself, and what an app raises at its start.
    """
    for app in apps:
        app.finalize()
    log.info("running %s", ", ".join(app.conf.id for app in apps))
    asked: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    # An app has started when its group has formed, which may take for ever: nothing waits for that.
    starting: asyncio.Future[Any] = asyncio.gather(*(app.maybe_start() for app in apps))
    guards: list[asyncio.Future[Any]] = [asyncio.ensure_future(loop.guard()) for loop in loops]
    await asyncio.wait([asked, starting, *guards], return_when=asyncio.FIRST_COMPLETED)
    ended: list[asyncio.Future[Any]] = []
    if not asked.done() and starting.done() and not starting.exception():
        ended = [asyncio.ensure_future(app.wait_until_stopped()) for app in apps]
        await asyncio.wait([asked, *ended, *guards], return_when=asyncio.FIRST_COMPLETED)
    by_itself = not asked.done()
    for app in apps:
        await app.stop()
    for waiting in (asked, starting, *ended, *guards):
        waiting.cancel()
    came = await asyncio.gather(asked, starting, *ended, *guards, return_exceptions=True)
    for loop in loops:
        loop.close()
    if by_itself:
        failures = [one for one in came if isinstance(one, Exception)]
        raise RuntimeError("Faust has ended by itself; its log says why") from next(iter(failures), None)


def run_until_signalled(apps: Sequence[faust.App], loops: Sequence[FaustLoop]) -> None:
    """Run the apps until SIGTERM or SIGINT."""

    async def main() -> None:
        stop, running = asyncio.Event(), asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(one, stop.set)
        await run_apps(apps, loops, stop)

    asyncio.run(main())
