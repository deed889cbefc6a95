"""`skewless snapshots` as a process, before there is anything to cut."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.entrypoints.test_cli import ROOT, skewless

DEADLINE_SECONDS = 60.0


def test_without_a_broker_it_ends_at_once_though_no_tower_is_live_either(tmp_path: Path) -> None:
    done = skewless("snapshots", data_dir=tmp_path)

    assert done.returncode == 3
    assert "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS" in done.stderr and "waiting" not in done.stderr


def test_told_to_end_while_it_waits_for_a_live_tower_it_connects_to_nothing(tmp_path: Path) -> None:
    # Nobody listens there: who connected would end with 3.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    environment |= {"SKEWLESS_DATA_DIR": str(tmp_path), "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
    cutter = subprocess.Popen(
        [sys.executable, "-m", "entrypoints.cli", "snapshots"],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert cutter.stderr is not None
        assert "waiting: " in cutter.stderr.readline()
        cutter.send_signal(signal.SIGTERM)
        assert cutter.wait(DEADLINE_SECONDS) == 0
        assert "rdkafka" not in cutter.stderr.read()
    finally:
        cutter.kill()
        cutter.communicate()
