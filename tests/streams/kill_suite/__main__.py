"""`python -m tests.streams.kill_suite [--full] [--events N] [--seed N]`: one run, JSON on the last line.

On the embedded broker, or on a broker started from KAFKA_HOME. Exit code 1 when a promise is not kept.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, ensure_topics
from streams.local_kafka import LocalKafka
from tests.kafka_fixture import EMBEDDED, KAFKA, SHORT_SESSIONS
from tests.streams.kill_suite.driver import Place, run, small
from tests.streams.kill_suite.plan import FULL, QUICK, QUICK_ON_KAFKA, Act, Plan


@contextmanager
def places(root: Path, home: str | None) -> Iterator[Place]:
    """A broker of one's own: real when `home` names a distribution, embedded when not."""
    if home is None:
        with EmbeddedBroker() as embedded:
            yield Place(KafkaSettings(bootstrap_servers=embedded.bootstrap_servers), EMBEDDED, root)
        return
    with LocalKafka(Path(home), root / "kafka", SHORT_SESSIONS) as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(settings)
        yield Place(settings, KAFKA, root, broker)


def main(arguments: list[str]) -> int:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the promised run instead of the quick one")
    parser.add_argument("--events", type=int, help="fewer events, and fewer incidents in proportion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep state, snapshots and logs here")
    asked = parser.parse_args(arguments)
    home = os.environ.get("KAFKA_HOME")
    quick = QUICK if home is None else QUICK_ON_KAFKA
    plan = replace(FULL if asked.full else quick, seed=asked.seed)
    if asked.events:
        plan = small(plan, asked.events)
    with (
        tempfile.TemporaryDirectory(prefix="skewless-kill-") as folder,
        places(asked.keep or Path(folder), home) as place,
    ):
        report = run(_without_broker_kills(plan) if place.broker is None else plan, place)
    print(json.dumps(report.as_json()))
    return 1 if report.faults() else 0


def _without_broker_kills(plan: Plan) -> Plan:
    return replace(plan, acts={act: count for act, count in plan.acts.items() if act != Act.KILL_BROKER})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
