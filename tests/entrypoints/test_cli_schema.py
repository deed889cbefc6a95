import json

import yaml
from typer.testing import CliRunner

from entrypoints.cli import app
from schemas.topics import TOPICS
from tests.schemas.checked_in import ASYNCAPI

RUNNER = CliRunner()


def test_the_asyncapi_document_is_printed_as_yaml_and_as_json() -> None:
    as_yaml = RUNNER.invoke(app, ["schema", "--asyncapi"])
    as_json = RUNNER.invoke(app, ["schema", "--asyncapi", "--json"])

    assert as_yaml.stdout == ASYNCAPI.read_text("utf-8")
    assert json.loads(as_json.stdout) == yaml.safe_load(as_yaml.stdout)


def test_the_replication_factor_is_the_settings() -> None:
    printed = RUNNER.invoke(
        app, ["schema", "--asyncapi", "--json"], env={"SKEWLESS_KAFKA_REPLICATION_FACTOR": "3"}
    )

    channels = json.loads(printed.stdout)["channels"].values()
    assert {one["bindings"]["kafka"]["replicas"] for one in channels} == {3}


def test_one_topic_and_the_document_of_all_are_wrong_usage() -> None:
    assert RUNNER.invoke(app, ["schema", "pin.changed.v1", "--asyncapi"]).exit_code == 2


def test_a_proto_file_asked_for_as_json_is_json() -> None:
    printed = json.loads(
        RUNNER.invoke(app, ["schema", "pin.changed.v1", "--format", "proto", "--json"]).stdout
    )

    assert printed["topic"] == "pin.changed.v1"
    assert printed["proto"] == RUNNER.invoke(app, ["schema", "pin.changed.v1", "--format", "proto"]).stdout


def test_without_a_topic_they_are_listed() -> None:
    rows = json.loads(RUNNER.invoke(app, ["schema", "--json"]).stdout)

    assert [row["topic"] for row in rows] == list(TOPICS)


def test_json_schema_is_the_default_format() -> None:
    default = RUNNER.invoke(app, ["schema", "pin.changed.v1"]).stdout

    assert default == RUNNER.invoke(app, ["schema", "pin.changed.v1", "--format", "json"]).stdout
    assert json.loads(default)["title"] == "PinChanged"
