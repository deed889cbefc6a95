"""What Faust itself does, on a broker: the double in test_faust_loop.py is only as good as this."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from confluent_kafka import Producer

from schemas.topics import VISIT_OBSERVED
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from streams.step_source import KafkaStepSource

from .failing_stream_process import FAILS_AT
from .window_events import value_of

ROOT = Path(__file__).parents[2]
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_bug_in_a_step_ends_the_process_and_its_events_stay_unacknowledged(tmp_path: Path) -> None:
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        for number in range(100):
            value = FAILS_AT if number == 55 else b"fine"
            producer.produce(VISIT_OBSERVED.name, value, key=b"1", partition=3)
        assert producer.flush(10) == 0
        command = [sys.executable, "-m", "tests.streams.failing_stream_process", broker.bootstrap_servers]
        done = subprocess.run(
            [*command, str(tmp_path)],
            env=_ENVIRONMENT,
            cwd=ROOT,
            timeout=60,
            capture_output=True,
            check=False,
        )
        source = KafkaStepSource(settings, "skewless-stream-echo")
        lane = (VISIT_OBSERVED.name, 3)
        committed = source.standing([lane])[lane].committed or 0
        source.close()

    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr
    assert committed <= 55


def test_a_process_that_was_stopped_for_longer_than_its_session_does_not_go_on(tmp_path: Path) -> None:
    """Its successor has told its own by then, and an older word must not come after it."""
    with EmbeddedBroker() as broker:
        settings = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        producer = Producer(producer_config(settings))
        producer.produce(VISIT_OBSERVED.name, value_of(1, 5, visit=True), key=b"1")
        assert producer.flush(10) == 0
        source = KafkaStepSource(settings, "skewless-stream-windows")
        partitions = source.partitions([VISIT_OBSERVED.name])
        command = [sys.executable, "-m", "tests.streams.stream_process", broker.bootstrap_servers]
        with subprocess.Popen(
            [*command, str(tmp_path), "frozen", "1.5"], env=_ENVIRONMENT, cwd=ROOT
        ) as process:
            deadline = time.monotonic() + 40
            while not any(one.committed for one in source.standing(partitions).values()):
                assert process.poll() is None
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGSTOP)
            time.sleep(2.5)  # What is tested is the passing of time.
            process.send_signal(signal.SIGCONT)
            assert process.wait(20) == 3
        source.close()
