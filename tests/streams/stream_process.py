"""A process that runs the day windows as `skewless stream` does, with a short session, to be killed.

`python -m tests.streams.stream_process BOOTSTRAP STATE NAME [FROZEN_SECONDS]`, from the root.
"""

import logging
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from entrypoints.wiring_streams import Home, step_app
from streams.app import run_until_signalled
from streams.faust_loop import LoopSettings
from streams.kafka import KafkaSettings
from streams.stream_telemetry import StreamTelemetry
from streams.window_store import WindowStore
from streams.windows import WindowSettings, WindowsStep

SESSION_MS = 1_500


def main() -> None:
    """Run until SIGTERM."""
    bootstrap, state, name = sys.argv[1:4]
    logging.basicConfig(level=logging.WARNING)
    kafka = KafkaSettings(
        bootstrap_servers=bootstrap, session_timeout_ms=SESSION_MS, heartbeat_interval_ms=300
    )
    step = WindowsStep(WindowStore(Path(state) / "windows"), WindowSettings(sweep_pins=64))
    settings = LoopSettings(
        take_events=48,
        take_seconds=0.05,
        tick_seconds=0.2,
        frozen_seconds=float(sys.argv[4]) if len(sys.argv) > 4 else 10.0,
        stall_seconds=5.0,
        look_seconds=0.5,
    )
    made = step_app(kafka, step, Home(Path(state), name), settings, StreamTelemetry(CollectorRegistry()))
    run_until_signalled([made[0]], [made[1]])


if __name__ == "__main__":
    main()
