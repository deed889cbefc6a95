"""A process whose step fails at one value.

`python -m tests.streams.failing_stream_process BOOTSTRAP STATE` (run with the repository on the path).
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from entrypoints.wiring_streams import Home, step_app
from streams.app import run_until_signalled
from streams.faust_loop import LoopSettings
from streams.kafka import KafkaSettings
from streams.steps import RawEvent, StepResult
from streams.stream_telemetry import StreamTelemetry
from tests.streams.step_doubles import EchoStep

FAILS_AT = b"poison for the code, not for the data"


class _FailingStep(EchoStep):
    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        if any(one.value == FAILS_AT for one in events):
            raise ZeroDivisionError("a bug")
        super().apply(events)
        return StepResult()


def main() -> None:
    """Run until it fails."""
    bootstrap, state = sys.argv[1:3]
    logging.basicConfig(level=logging.WARNING)
    kafka = KafkaSettings(bootstrap_servers=bootstrap, session_timeout_ms=1_500, heartbeat_interval_ms=300)
    telemetry = StreamTelemetry(CollectorRegistry())
    home = Home(Path(state), "failing")
    app, loop, _ = step_app(kafka, _FailingStep(), home, LoopSettings(take_events=10), telemetry)
    run_until_signalled([app], [loop])


if __name__ == "__main__":
    main()
