import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from schemas.codec import encode
from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings, producer_config
from tests.entrypoints.test_cli import ROOT, skewless
from tests.schemas.examples import pin_changed, pin_embedded


def test_a_good_file_passes_and_a_bad_one_exits_with_1_and_says_where(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_bytes(encode(pin_changed(pin_id=1)) + b"\n")
    bad.write_bytes(encode(pin_changed(pin_id=1)) + b"\n\n{\n")

    passed = skewless("events", "validate", str(good), "--topic", "pin.changed.v1", "--json")
    failed = skewless("events", "validate", str(bad), "--topic", "pin.changed.v1", "--json")
    printed = skewless("events", "validate", str(bad), "--topic", "pin.changed.v1")

    assert passed.returncode == 0
    assert json.loads(passed.stdout)["ok"] is True
    assert failed.returncode == printed.returncode == 1
    checks = {one["check"]: one for one in json.loads(failed.stdout)["checks"]}
    assert (checks["decode"]["result"], checks["decode"]["failed"]) == ("FAIL", 1)
    assert checks["decode"]["examples"][0]["line"] == 3
    assert checks["schema"]["result"] == "PASS"
    assert "line 3: " in printed.stdout


def test_an_event_that_is_nested_too_deep_is_named_by_its_line(tmp_path: Path) -> None:
    deep = b"[" * 300 + b"]" * 300
    file = tmp_path / "deep.jsonl"
    value = encode(pin_changed())
    for bad in (b'{"topic":"pin.changed.v1","value":{"x":' + deep + b"}}", b'{"pin_id":1,"x":' + deep + b"}"):
        file.write_bytes(b'{"topic":"pin.changed.v1","key":"7","value":' + value + b"}\n" + bad + b"\n")
        failed = skewless("events", "validate", str(file), "--topic", "pin.changed.v1", "--json")

        assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
        assert json.loads(failed.stdout)["events"] == {"pin.changed.v1": 1}


def test_standard_input_is_read_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", "events", "validate", "-", "--json"],
        input=b'{"topic":"pin.changed.v1","key":"7","value":' + encode(pin_changed()) + b"}",
        capture_output=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0
    assert json.loads(done.stdout)["events"] == {"pin.changed.v1": 1}


def test_no_file_is_wrong_usage_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    assert skewless("events", "validate", str(tmp_path / "none")).returncode == 2
    assert skewless("events", "validate", str(tmp_path / "empty")).returncode == 1
    assert skewless("events", "validate", str(tmp_path / "empty"), "--topic", "pins").returncode == 1


@pytest.fixture
def broker() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([("pin.embedded.v1", 2)]) as running:
        settings = KafkaSettings(bootstrap_servers=running.bootstrap_servers)
        producer = Producer(producer_config(settings))
        producer.produce("pin.embedded.v1", encode(pin_embedded()), b"7", 1, headers=[("ce_id", b"\xff")])
        producer.produce("pin.embedded.v1", None, b"8", 1)
        producer.flush()
        yield settings


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "entrypoints.cli", "events", "tail", *arguments]


def _environment(settings: KafkaSettings) -> dict[str, str]:
    return os.environ | {"SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers}


def test_messages_are_printed_with_their_bodies_decoded_and_tombstones_named(broker: KafkaSettings) -> None:
    tail = _command("--topic", "pin.embedded.v1", "--decode")
    environment = _environment(broker)
    printed = subprocess.run(tail, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    as_json = subprocess.run(
        [*tail, "--json"], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )

    assert "pin.embedded.v1/1/0" in printed.stdout
    assert "vector = [0.5, -0.25, 0, 1] (4 dimensions)" in printed.stdout
    assert "(no value: deletes this key)" in printed.stdout
    first, second = map(json.loads, as_json.stdout.splitlines())
    assert (first["key"], first["headers"], first["body"]["pin_id"]) == ("7", {"ce_id": "0xff"}, 7)
    assert (second["offset"], second["key"], second["body"]) == (1, "8", None)


def test_texts_and_names_cannot_move_the_cursor(broker: KafkaSettings) -> None:
    producer = Producer(producer_config(broker))
    for number, body in enumerate((b'{"title":"a\\u001b[2J","\\u001b]0;":["\xc2\x9b"]}', b'"\\u001b[31m"')):
        producer.produce("pin.embedded.v1", body, b"%d" % number, 0, headers=[("h\x1b[1m", b"1\x1b[0m")])
    producer.flush()

    tail = _command("--topic", "pin.embedded.v1", "--decode", "--partition", "0")
    printed = subprocess.run(
        tail, capture_output=True, text=True, check=True, cwd=ROOT, env=_environment(broker)
    )

    assert "\x1b" not in printed.stdout and "\x9b" not in printed.stdout
    assert "title = a\\u001b[2J" in printed.stdout
    assert '\\u001b]0; = ["\\u009b"]' in printed.stdout
    assert "h\\u001b[1m: 1\\u001b[0m" in printed.stdout


def test_following_ends_cleanly_on_ctrl_c(broker: KafkaSettings) -> None:
    with subprocess.Popen(
        _command("--topic", "pin.embedded.v1", "--follow", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(broker),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["offset"] == 0
        process.send_signal(signal.SIGINT)

        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_start_that_is_none_is_wrong_usage() -> None:
    assert skewless("events", "tail", "--topic", "pin.embedded.v1", "--from", "yesterday").returncode == 2
