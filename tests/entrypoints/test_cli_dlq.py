import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from streams.embedded_broker import EmbeddedBroker
from streams.kafka import KafkaSettings
from tests.entrypoints.test_cli import ROOT, skewless
from tests.streams.letters_on_a_topic import DLQ, broken, letter, put_letters


@pytest.fixture
def broker() -> Iterator[KafkaSettings]:
    with EmbeddedBroker([("pin.changed.v1", 32), (DLQ, 4)]) as running:
        yield KafkaSettings(bootstrap_servers=running.bootstrap_servers)


def run(settings: KafkaSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers, "NO_COLOR": "1"},
        timeout=60,
    )


def test_letters_are_counted_shown_rehearsed_and_put_back_once(broker: KafkaSettings) -> None:
    put_letters(broker, [letter(1), letter(2), broken(3)], [("ce_source", b"catalogue")])

    listed = json.loads(run(broker, "dlq", "list", "--json").stdout)
    assert [(row["topic"], row["reason"], row["letters"], row["replayed"]) for row in listed] == [
        ("pin.changed.v1", "decode_error", 1, 0),
        ("pin.changed.v1", "model_error", 2, 0),
    ]
    assert listed[1]["oldest"] == "1970-01-01T00:16:40.001Z"

    shown = run(broker, "dlq", "show", "--topic", DLQ, "--reason", "decode_error", "--json")
    (only,) = map(json.loads, shown.stdout.splitlines())
    assert (only["key"], only["body"], only["headers"]) == ("3", "{", {"ce_source": "catalogue"})
    assert "Invalid JSON" in only["would_fail_again"]

    dry = run(broker, "dlq", "replay", "--topic", "pin.changed.v1", "--dry-run", "--json")
    *letters, summary = map(json.loads, dry.stdout.splitlines())
    assert sorted(one["result"] for one in letters) == ["would_fail", "would_replay", "would_replay"]
    assert all(one["age_seconds"] > 1_000_000 for one in letters)
    assert (summary["would_replay"], summary["would_fail"], summary["replayed"]) == (2, 1, 0)

    done = json.loads(run(broker, "dlq", "replay", "--topic", "pin.changed.v1", "--json").stdout)
    again = json.loads(run(broker, "dlq", "replay", "--topic", "pin.changed.v1", "--json").stdout)
    assert (done["replayed"], done["would_fail"], done["already_replayed"]) == (2, 1, 0)
    assert (again["replayed"], again["would_fail"], again["already_replayed"]) == (0, 1, 2)


def test_letters_with_deep_bodies_and_odd_times_are_counted_and_shown(broker: KafkaSettings) -> None:
    deep = b'{"pin_id":7,"x":' + b"[" * 300 + b"]" * 300 + b"}"
    odd = replace(letter(7), value=deep, ingested_at_ms=1_700_000_000_000_000, message="no\x1b[2J")
    put_letters(broker, [odd])

    listed = json.loads(run(broker, "dlq", "list", "--json").stdout)
    as_json = run(broker, "dlq", "show", "--topic", DLQ, "--json")
    printed = run(broker, "dlq", "show", "--topic", DLQ)

    assert listed[0]["newest"] == "1700000000000000 ms"
    assert json.loads(as_json.stdout)["body"] == deep.decode()
    assert "no\\u001b[2J" in printed.stdout and "\x1b" not in printed.stdout


def test_an_age_limit_leaves_old_letters_where_they_are(broker: KafkaSettings) -> None:
    put_letters(broker, [letter(1)])

    young = run(broker, "dlq", "replay", "--topic", "pin.changed.v1", "--max-age", "7d", "--json")

    assert json.loads(young.stdout)["replayed"] == 0


def test_a_topic_without_dead_letters_is_named_and_no_broker_is_unavailable(broker: KafkaSettings) -> None:
    missing = run(broker, "dlq", "replay", "--topic", "visit.observed.v1")
    unknown = run(broker, "dlq", "show", "--topic", "pins")
    reason = run(broker, "dlq", "list", "--reason", "bad_luck")
    bad_age = run(broker, "dlq", "list", "--topic", "pin.changed.v1", "--max-age", "soon")
    away = run(KafkaSettings(bootstrap_servers="127.0.0.1:9"), "dlq", "list")

    assert (missing.returncode, unknown.returncode, reason.returncode) == (1, 1, 1)
    assert "visit.observed.v1.dlq" in missing.stderr
    assert "pin.changed.v1" in unknown.stderr
    assert "decode_error" in reason.stderr
    assert bad_age.returncode == 2
    assert away.returncode == 3
    assert "127.0.0.1:9 is out of reach" in away.stderr
    assert "Traceback" not in missing.stderr + unknown.stderr + reason.stderr + away.stderr


def test_the_help_of_replay_says_what_an_old_partial_update_does() -> None:
    text = " ".join(skewless("dlq", "replay", "--help").stdout.split())

    assert "an old partial update is applied as a change of now, and may overwrite newer values" in text
