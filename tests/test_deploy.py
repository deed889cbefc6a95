"""Dockerfile and docker-compose.yml, checked against the code that they start. Nothing is run here."""

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from entrypoints.cli import app
from entrypoints.kafka_connection import kafka_settings
from entrypoints.settings import ENV_PREFIX, Settings
from entrypoints.wiring_shards import leaf_addresses
from schemas.errors import Refused
from serving.server import FINISH_SECONDS
from streams.schema_registry import RegistrySettings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("skewless:")}
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
INSTRUCTIONS = [
    (match[1], match[2])
    for match in re.finditer(r"^([A-Z]+) (.*)$", re.sub(r"\\\n\s*", "", DOCKERFILE), re.MULTILINE)
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

SERVICE_KEYS = {
    "image", "build", "command", "environment", "volumes", "ports", "depends_on", "healthcheck", "restart",
    "profiles", "init", "stop_grace_period",
}  # fmt: skip
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "start_period", "retries", "disable"}
CONDITIONS = {"service_healthy", "service_completed_successfully", "service_started"}
DURATION = re.compile(r"^\d+(ms|s|m|h)$")


def environment(service: str) -> dict[str, str]:
    """Variables of a service as its process gets them, with nothing set on the host."""
    given: dict[str, Any] = SERVICES[service].get("environment", {})
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)) for name, value in given.items()}


def settings(service: str) -> Settings:
    """The settings that the process of a service runs with."""
    names = environment(service)
    values = {name.removeprefix(ENV_PREFIX).lower(): value for name, value in names.items()}
    return Settings(**values)  # type: ignore[arg-type]  # pydantic reads them from text


def test_the_file_has_the_keys_of_the_compose_specification() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"name", "services", "volumes"}
    for name, service in SERVICES.items():
        assert set(service) <= SERVICE_KEYS, name
        assert service.get("restart") in ("no", "unless-stopped"), name
        assert DURATION.match(service.get("stop_grace_period", "1s")), name


def test_servers_have_the_time_to_drain_and_to_finish_before_they_are_killed() -> None:
    for name in ("serve", "root"):
        patience = re.fullmatch(r"(\d+)s", SERVICES[name]["stop_grace_period"])
        assert patience is not None
        # Five more for the ranking log, the delta segment and the interpreter.
        assert int(patience[1]) >= settings(name).drain_seconds + FINISH_SECONDS + 5, name


def test_every_image_is_pinned_to_a_release() -> None:
    images = [service["image"] for service in SERVICES.values()]
    images += [value.split()[0] for keyword, value in INSTRUCTIONS if keyword == "FROM"]

    for image in images:
        assert re.search(r":\d+\.\d+\.\d+[\w.-]*$", image), image


def test_our_image_carries_the_version_of_the_package() -> None:
    assert {one["image"] for one in OURS.values()} == {f"skewless:{PROJECT['project']['version']}"}
    assert (ROOT / OURS["serve"]["build"] / "Dockerfile").is_file()


def test_every_process_of_the_system_is_a_service() -> None:
    assert {"topics", "enrich", "snapshots", "stream", "ship", "serve"} <= set(OURS)
    assert {"kafka", "registry"} == set(SERVICES) - set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_command_and_its_options_exist(name: str) -> None:
    ran = CliRunner().invoke(app, [*OURS[name]["command"], "--help"])

    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_takes_its_value(name: str) -> None:
    known = {ENV_PREFIX + field.upper() for field in Settings.model_fields}

    assert set(environment(name)) <= known
    assert settings(name).data_dir == Path("/srv/skewless")


def test_variables_that_the_dockerfile_sets_are_settings() -> None:
    named = set(re.findall(rf"{ENV_PREFIX}\w+", DOCKERFILE))

    assert {one.removeprefix(ENV_PREFIX).lower() for one in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", [name for name in OURS if name != "train"])
def test_plaintext_between_the_containers_is_allowed_by_name_and_only_so(name: str) -> None:
    loaded = settings(name)

    assert kafka_settings(loaded).bootstrap_servers == "kafka:9092"
    with pytest.raises(Refused, match="kafka_plaintext"):
        kafka_settings(loaded.model_copy(update={"kafka_allow_plaintext": False}))
    assert RegistrySettings(
        url="http://registry:8081", allow_plaintext=loaded.schema_registry_allow_plaintext
    )


def test_hours_and_days_end_though_no_event_comes() -> None:
    assert settings("snapshots").cut_clock == "wall"
    assert settings("snapshots").cut_every_seconds == 0
    assert settings("stream").windows_clock == "wall"


def test_the_comment_says_why_plaintext_is_allowed() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    before = text[: text.index("SKEWLESS_KAFKA_ALLOW_PLAINTEXT")].splitlines()

    assert "SASL_SSL" in before[-2] and before[-2].strip().startswith("#")


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_can_come_true(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        assert how["condition"] in CONDITIONS
        if how["condition"] == "service_healthy":
            assert not SERVICES[other]["healthcheck"].get("disable")
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_says_how_its_health_is_seen(name: str) -> None:
    check = SERVICES[name]["healthcheck"]

    assert set(check) <= HEALTHCHECK_KEYS
    assert check.get("disable") or check["test"][0] == "CMD"
    for key in ("interval", "timeout", "start_period"):
        assert check.get("disable") or DURATION.match(check[key])


def test_the_health_checks_ask_where_the_processes_listen() -> None:
    serve = settings("serve")
    assert f":{serve.http_port}/healthz" in SERVICES["serve"]["healthcheck"]["test"][-1]
    assert f":{serve.http_port}/healthz" in DOCKERFILE
    assert '"/healthz"' in (ROOT / "serving/routes.py").read_text("utf-8")
    assert ("EXPOSE", str(serve.http_port)) in INSTRUCTIONS
    for name in ("enrich", "stream", "snapshots"):
        command = SERVICES[name]["command"]
        port = command[command.index("--metrics-port") + 1]
        assert f"127.0.0.1:{port}/metrics" in SERVICES[name]["healthcheck"]["test"][-1]


def test_the_root_knows_every_leaf_at_the_place_of_its_shard() -> None:
    sharded = {name for name, one in SERVICES.items() if "sharded" in one.get("profiles", ())}
    leaves = leaf_addresses(settings("root").leaves)

    assert sharded == {"root", *(address.split(":")[0] for address in leaves)}
    for number, address in enumerate(leaves, start=1):
        name, _, port = address.partition(":")
        assert SERVICES[name]["command"] == ["leaf", "--shard", f"{number}/{len(leaves)}"]
        assert settings(name).leaf_port == int(port)
        assert settings(name).http_host == "0.0.0.0" and "ports" not in SERVICES[name]
        assert f"127.0.0.1:{port}/healthz" in SERVICES[name]["healthcheck"]["test"][-1]
        # A leaf leaves out what the root could not sell, so the two have to agree on the reserve.
        assert settings(name).reserve_price_micros == settings("root").reserve_price_micros
    assert '"/healthz"' in (ROOT / "serving/leaf_app.py").read_text("utf-8")


def test_ports_are_opened_to_this_host_only_and_are_those_that_are_listened_on() -> None:
    opened = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}

    for name, ports in opened.items():
        for port in ports:
            host, _, inside = port.split(":")
            assert host == "127.0.0.1", name
            listened = f"{SERVICES[name].get('environment')}"
            assert re.search(rf"[:']{inside}\b", listened), f"{name} does not listen on {inside}"
    assert settings("serve").http_host == "0.0.0.0"


def test_kafka_advertises_the_listeners_that_it_has() -> None:
    kafka = environment("kafka")
    listeners = {one.split("://")[0]: one.rpartition(":")[2] for one in kafka["KAFKA_LISTENERS"].split(",")}
    advertised = dict(one.split("://") for one in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(one.split(":") for one in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))

    assert set(protocols) == set(listeners)
    assert advertised == {"PLAINTEXT": "kafka:9092", "HOST": "localhost:29092"}
    assert all(listeners[name] == address.rpartition(":")[2] for name, address in advertised.items())
    voters = kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    assert voters == f"{kafka['KAFKA_NODE_ID']}@kafka:{listeners['CONTROLLER']}"
    assert f"{kafka['KAFKA_LOG_DIRS']}" in [one.split(":")[1] for one in SERVICES["kafka"]["volumes"]]


def test_every_named_volume_is_declared_and_used() -> None:
    mounts = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", ())]

    assert {mount[0] for mount in mounts if len(mount) == 2} == set(COMPOSE["volumes"])


def test_a_service_that_is_scaled_shares_neither_state_nor_ports_nor_a_name() -> None:
    enrich = SERVICES["enrich"]
    state = settings("enrich").state_dir(0).parent

    assert str(state) in enrich["volumes"], "replicas would open one RocksDB"
    assert "ports" not in enrich and "container_name" not in enrich


def test_no_secret_is_written_down() -> None:
    for name in OURS:
        held = settings(name)
        for field in ("kafka_sasl_password", "schema_registry_password", "admin_token"):
            assert getattr(held, field).get_secret_value() == "", f"{name}: {field}"


def test_the_image_runs_as_somebody_who_is_not_root() -> None:
    (user,) = [value for keyword, value in INSTRUCTIONS if keyword == "USER"]
    assert user not in ("root", "0")
    assert f"useradd --uid 10001 --create-home {user}" in DOCKERFILE
    assert "HEALTHCHECK" in dict(INSTRUCTIONS) and ("ENTRYPOINT", '["skewless"]') in INSTRUCTIONS


def copied() -> list[str]:
    """Sources that the Dockerfile copies from the checkout."""
    lines = [value.split() for keyword, value in INSTRUCTIONS if keyword == "COPY"]
    return [source for line in lines if not line[0].startswith("--from") for source in line[:-1]]


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    patterns = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    sent = {one[1:] for one in patterns if one.startswith("!")}

    assert patterns[1] == "*"
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in sent), source
    assert sent == set(copied())


def test_every_package_is_in_the_image() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) <= set(copied())


def test_the_extras_that_are_installed_exist() -> None:
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)

    assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    assert "-c constraints.txt" in DOCKERFILE


def test_the_pythons_of_image_and_project_agree() -> None:
    (version,) = set(re.findall(r"^FROM python:(\d+\.\d+)", DOCKERFILE, re.MULTILINE))

    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert version in ("3.11", "3.12", "3.13")
