"""Waiting for Kafka at the start of a process, in words of our own.

A process that is started before its broker, as happens whenever a whole stack comes up, has nothing to
do but wait; a supervisor that restarted it over and over would do no more. What is wrong with an address
or a certificate stands in the line that says so.
"""

import logging
import time
from collections.abc import Callable
from contextlib import closing

from confluent_kafka import KafkaError, KafkaException

from .kafka import KafkaClients, KafkaSettings, consumer_config

log = logging.getLogger(__name__)

_TRY_SECONDS = 1.0
SAY_EVERY_SECONDS = 5.0


def wait_for_broker(
    settings: KafkaSettings,
    stopped: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
    clients: KafkaClients | None = None,
) -> bool:
    """Return True when a broker answers, False when told to stop first. Says now and then that it waits."""
    told: list[str] = []

    def on_error(error: KafkaError) -> None:
        told[:] = [error.str()]

    # The client's own lines, several a second, would bury ours.
    quiet = {"error_cb": on_error, "log_level": 0}
    started, said_at = clock(), float("-inf")
    config = consumer_config(settings, f"{settings.client_id}-wait", quiet)
    with closing((clients or KafkaClients()).consumer(config)) as asking:
        while not stopped():
            try:
                asking.list_topics(timeout=_TRY_SECONDS)
            except KafkaException as error:
                asking.poll(0)  # tells `on_error` the reason
                if clock() - said_at >= SAY_EVERY_SECONDS:
                    said_at = clock()
                    reason = told[-1] if told else error.args[0].str()
                    log.warning("waiting for Kafka at %s: %s", settings.bootstrap_servers, reason)
                continue
            if said_at > float("-inf"):
                log.info("Kafka answers after %.0f s", clock() - started)
            return True
    return False
