import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from confluent_kafka import KafkaError, KafkaException

from entrypoints import cli
from index.builder import build_release
from index.releases import ReleaseStore
from streams.embedded_broker import EmbeddedBroker
from tests.entrypoints.world import cut, save_tower

ROOT = Path(__file__).parent.parent.parent
COMMANDS = (
    "demo",
    "serve",
    "enrich",
    "ship",
    "skew",
    "training-rows",
    "snapshots",
    "train",
    "broker",
    "topics",
    "rank",
    "recount",
    "funnel",
    "schema",
    "features",
    "settings",
    "release list",
    "release show",
    "release build",
    "release check",
    "release publish",
    "release rollback",
    "release audit",
    "embed",
    "rollover start",
    "rollover status",
    "rollover finish",
    "rollover abort",
    "towers list",
    "towers live",
    "dlq list",
    "dlq show",
    "dlq replay",
    "events validate",
    "events tail",
    "doctor",
)


def skewless(*arguments: str, data_dir: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    if data_dir is not None:
        environment["SKEWLESS_DATA_DIR"] = str(data_dir)
    return subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment | {"NO_COLOR": "1"},
        timeout=60,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    done = skewless(*command.split(), "--help")

    assert done.returncode == 0
    assert "Example:" in done.stdout
    assert "--json" in done.stdout


def test_schema_prints_a_json_schema_and_nothing_else() -> None:
    done = skewless("schema", "pin.changed.v1")

    assert json.loads(done.stdout)["title"] == "PinChanged"
    assert done.stderr == ""


def test_schema_lists_the_topics_as_json() -> None:
    topics = {row["topic"]: row["partitions"] for row in json.loads(skewless("schema", "--json").stdout)}

    assert topics["pin.changed.v1"] == topics["pin.embedded.v1"]


def test_features_prints_the_registry_with_its_hash() -> None:
    registry = json.loads(skewless("features", "--json").stdout)

    assert len(registry["registry_hash"]) == 64
    assert "targeting_flags" in {row["name"] for row in registry["features"]}


def test_a_refusal_says_what_was_expected_what_came_and_what_fixes_it_and_exits_with_1() -> None:
    done = skewless("schema", "pin.changed.v9")

    assert done.returncode == 1
    assert done.stdout == ""
    assert "pin.changed.v1" in done.stderr
    assert "pin.changed.v9" in done.stderr
    assert "fix" in done.stderr


def test_with_json_a_refusal_is_one_object_on_stderr(tmp_path: Path) -> None:
    done = skewless("release", "show", "--json", data_dir=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {
        "refused": {
            "code": "no_release",
            "expected": "a live release",
            "came": "none",
            "fix": "`skewless release publish ID` makes one live.",
        }
    }


def test_with_json_what_cannot_be_reached_is_one_object_on_stderr(tmp_path: Path) -> None:
    log, disk = (
        skewless("recount", "--json", data_dir=tmp_path / "none"),
        skewless("recount", "--json", data_dir=Path(__file__)),
    )

    assert [(one.returncode, one.stdout) for one in (log, disk)] == [(3, ""), (3, "")]
    assert "no ranking log" in json.loads(log.stderr)["unavailable"]["came"]
    told = json.loads(disk.stderr)["unavailable"]
    assert "Not a directory" in told["came"] and "skewless doctor" in told["fix"]


def test_wrong_usage_exits_with_2() -> None:
    assert skewless("rank").returncode == 2
    assert skewless("no-such-command").returncode == 2


def test_a_missing_server_exits_with_3() -> None:
    done = skewless("rank", "--user", "1", "--url", "http://127.0.0.1:9")

    assert done.returncode == 3
    assert done.stdout == ""


def test_a_missing_broker_exits_with_3_and_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "towers").mkdir()
    version = "a" * 64
    (tmp_path / "towers" / "LIVE").write_text(json.dumps([version]))

    done = skewless("snapshots", data_dir=tmp_path)

    assert done.returncode == 3
    assert "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS" in done.stderr


def test_an_empty_data_directory_has_no_releases_and_no_towers(tmp_path: Path) -> None:
    assert json.loads(skewless("release", "list", "--json", data_dir=tmp_path).stdout) == []
    assert json.loads(skewless("towers", "list", "--json", data_dir=tmp_path).stdout) == []
    assert skewless("release", "show", data_dir=tmp_path).returncode == 1
    assert skewless("release", "rollback", data_dir=tmp_path).returncode == 1


def test_secrets_are_masked_in_the_list_of_settings() -> None:
    environment = os.environ | {"SKEWLESS_ADMIN_TOKEN": "planted"}
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.cli", "settings", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )

    assert "planted" not in done.stdout + done.stderr


def test_topics_leaves_those_of_the_embedded_broker_as_they_are() -> None:
    with EmbeddedBroker() as broker:
        done = subprocess.run(
            [sys.executable, "-m", "entrypoints.cli", "topics", "--json"],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"SKEWLESS_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers},
        )

    assert "made its topics itself" in json.loads(done.stdout)["skipped"]


def test_a_release_of_another_registry_is_not_published(tmp_path: Path) -> None:
    tower = save_tower(tmp_path, seed=1)
    snapshot = cut(tmp_path, tower, 20)
    store = ReleaseStore(tmp_path / "releases")
    manifest = build_release(
        store,
        tmp_path / "snapshots",
        snapshot.snapshot_id,
        tower=tower.model_copy(update={"registry_hash": "0" * 64}),
        registry_hash="0" * 64,
    )

    done = skewless("release", "publish", manifest.release_id, data_dir=tmp_path)

    assert done.returncode == 1
    assert "registry" in done.stderr
    assert store.current() is None


def test_a_server_says_where_it_is_answers_and_ends_well_on_sigterm(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    environment |= {"SKEWLESS_DATA_DIR": str(tmp_path), "SKEWLESS_HTTP_PORT": "0"}
    environment["SKEWLESS_DRAIN_SECONDS"] = "0"
    command = [sys.executable, "-m", "entrypoints.cli", "serve", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment
    ) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["console"]
        with httpx.Client(base_url=address, transport=httpx.HTTPTransport(retries=5), timeout=10) as client:
            assert client.get("/v2/health/live").status_code == 200
            assert client.get("/v2/health/ready").status_code == 503
        process.terminate()

        assert process.wait(30) == 0
        assert process.stdout.read() == ""


def test_an_error_of_the_kafka_client_is_a_message_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN, "[all] brokers down"))

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 3
    assert "unavailable Kafka:" in capsys.readouterr().err


def test_an_error_that_is_nobodys_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main()
