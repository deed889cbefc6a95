"""A snapshot cutter process, for the tests that kill one.

`python -m tests.streams.cutter_process BOOTSTRAP SNAPSHOTS [options]`, in the repository. It cuts by the
wall clock, and more often than a product would, and ends as `skewless snapshots` does: with 3 when Kafka is
out of reach.
"""

import argparse
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import Consumer

from entrypoints.output import EXIT_UNAVAILABLE
from schemas.errors import RetryableError
from streams.cut_policy import WallClockCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings
from streams.embedded_topic import KafkaEmbeddedTopic
from streams.kafka import KafkaSettings, consumer_config
from streams.outlet import Outlet
from tests.streams.embedded_rows_on_a_topic import tower
from tests.streams.failpoints import Failpoint, arm
from tests.streams.kill_suite.processes import READY

log = logging.getLogger(__name__)


def main() -> None:
    """Run until SIGTERM, or to the failpoint."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if arguments.failpoint:
        arm(Failpoint(arguments.failpoint, arguments.nth, arguments.marker))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    log.info(READY)
    settings = KafkaSettings(bootstrap_servers=arguments.bootstrap, cutter_group=arguments.group)
    consumer = Consumer(consumer_config(settings, settings.cutter_group))
    around = CutterSurroundings(
        live=lambda: [tower()],
        clock_ms=lambda: int(time.time() * 1000),
        outlet=Outlet(settings, "cutter"),
        on_snapshot=lambda manifest: None,
    )
    where = CutterSettings(arguments.snapshots, batch_size=500, poll_seconds=0.05)
    cutter = Cutter(KafkaEmbeddedTopic(consumer), where, WallClockCut(arguments.every_seconds), around)
    try:
        cutter.run(stop.is_set)
    except RetryableError as error:
        log.error("unavailable: %s", error)
        sys.exit(EXIT_UNAVAILABLE)
    finally:
        consumer.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("snapshots", type=Path)
    parser.add_argument("--group", default=KafkaSettings().cutter_group)
    parser.add_argument("--every-seconds", type=float, default=1.0)
    parser.add_argument("--failpoint")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--marker", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
