"""The rules for Faust, each as a test that fails when the rule is undone."""

import ast
import asyncio
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.types.enums import ProcessingGuarantee
from packaging.specifiers import SpecifierSet

from streams.app import AppSettings, build_app, group_of, run_apps
from streams.faust_loop import FaustLoop, LoopSettings
from streams.kafka import KafkaSettings

from .step_doubles import Around

ROOT = Path(__file__).parents[2]
FAUST_FILES = [ROOT / "streams/app.py", ROOT / "streams/faust_loop.py"]


def _app(folder: Path, **settings: Any) -> tuple[faust.App, FaustLoop]:
    around = Around()
    loop = FaustLoop(around.driver, around.source, around.telemetry, LoopSettings())
    app = build_app(KafkaSettings(**settings), [around.step], [loop], AppSettings(folder))
    app.finalize()
    return app, loop


def test_every_agent_has_a_concurrency_of_one(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    assert [agent.concurrency for agent in app.agents.values()] == [1]


def test_messages_come_raw(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    (agent,) = [one for one in app.agents.values() if "echo" in one.name]
    topic: Any = agent.channel
    assert (topic.key_serializer, topic.value_serializer) == ("raw", "raw")
    assert list(topic.topics) == ["visit.observed.v1"]
    assert (app.conf.key_serializer, app.conf.value_serializer) == ("raw", "raw")


def test_there_is_no_exactly_once_and_no_table_of_fausts(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    guarantee: Any = app.conf.processing_guarantee
    assert guarantee is ProcessingGuarantee.AT_LEAST_ONCE
    assert not app.in_transaction
    assert str(app.conf.store) == "memory:"
    assert not dict(app.tables)


def test_the_web_server_is_off(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    assert app.conf.web_enabled is False
    assert app.boot_strategy._should_enable_web() is False


def test_a_dead_worker_is_noticed_after_ten_seconds(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    assert (app.conf.broker_session_timeout, app.conf.broker_heartbeat_interval) == (10.0, 3.0)


def test_partition_n_of_every_topic_goes_to_the_same_worker(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    # With 0 Faust's driver takes aiokafka's round-robin assignor instead of its own.
    assert app.conf.table_standby_replicas > 0


def test_it_asks_nothing_of_a_broker_without_an_admin_api(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    assert (app.conf.topic_allow_declare, app.conf.topic_disable_leader) == (False, True)


def test_shutdown_and_rebalance_wait_for_what_is_under_way(tmp_path: Path) -> None:
    app, _ = _app(tmp_path)
    assert app.conf.stream_wait_empty is True


def test_a_group_belongs_to_its_steps() -> None:
    steps: list[Any] = [Around().step, Around().step]
    steps[1].name = "another"
    assert group_of("skewless-stream", steps) == "skewless-stream-another-echo"


def test_nothing_is_there_before_it_is_built() -> None:
    assert not [name for name in vars(__import__("streams.app", fromlist=["app"])) if name == "app"]


@pytest.mark.parametrize("path", FAUST_FILES, ids=lambda path: path.name)
def test_what_loses_data_in_faust_is_not_used(path: Path) -> None:
    named = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not named & {"noack", "noack_take", "Table", "GlobalTable", "SetTable", "main"}


def test_the_versions_that_were_tried_are_the_ones_allowed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = tomllib.load(file)["project"]["dependencies"]
    specifiers = {
        name: SpecifierSet(one.removeprefix(name))
        for one in wanted
        for name in ("faust-streaming", "aiokafka")
        if one.startswith(name)
    }
    # Before 0.15.2 a rebalance could leave agents stalled.
    assert not specifiers["faust-streaming"].contains("0.15.1")
    assert not specifiers["faust-streaming"].contains("0.16.0")
    assert not specifiers["aiokafka"].contains("0.15.0")
    assert all(specifier.contains(version(name)) for name, specifier in specifiers.items())


def test_sasl_and_tls_are_those_of_the_other_clients(tmp_path: Path) -> None:
    app, _ = _app(
        tmp_path,
        bootstrap_servers="kafka.example:9093,other.example:9093",
        security_protocol="SASL_SSL",
        sasl_username="ads",
        sasl_password="secret",
    )
    credentials: Any = app.conf.broker_credentials
    assert [str(one) for one in app.conf.broker] == [
        "kafka://kafka.example:9093",
        "kafka://other.example:9093",
    ]
    assert (credentials.protocol.value, credentials.mechanism.value) == ("SASL_SSL", "SCRAM-SHA-512")
    assert (credentials.username, credentials.password) == ("ads", "secret")
    assert credentials.ssl_context.check_hostname
    assert "secret" not in repr(credentials)


@pytest.mark.parametrize(
    ("protocol", "came"), [("SSL", "SSL"), ("SASL_PLAINTEXT", "SASL_PLAINTEXT"), ("PLAINTEXT", None)]
)
def test_each_protocol_is_taken_over(tmp_path: Path, protocol: str, came: str | None) -> None:
    app, _ = _app(tmp_path, security_protocol=protocol, sasl_username="ads", sasl_password="secret")
    credentials: Any = app.conf.broker_credentials
    assert (credentials.protocol.value if credentials else None) == came


def test_a_remote_broker_without_encryption_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="kafka_plaintext"):
        _app(tmp_path, bootstrap_servers="kafka.example:9092")


class _App:
    """An app whose group never forms, or that ends by itself at once."""

    conf = SimpleNamespace(id="app")

    def __init__(self, *, forms: bool) -> None:
        self._forms, self.stopped = forms, False

    def finalize(self) -> None:
        """Nothing to do."""

    async def maybe_start(self) -> None:
        if not self._forms:
            await asyncio.Event().wait()

    async def wait_until_stopped(self) -> None:
        """Has ended."""

    async def stop(self) -> None:
        self.stopped = True


class _Loop:
    def __init__(self) -> None:
        self.guarded = asyncio.Event()
        self.closed = False

    async def guard(self) -> None:
        self.guarded.set()
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


def test_a_group_that_never_forms_is_watched_and_can_be_stopped() -> None:
    async def main() -> None:
        app: Any = _App(forms=False)
        loop: Any = _Loop()
        stop = asyncio.Event()
        running = asyncio.ensure_future(run_apps([app], [loop], stop))
        await loop.guarded.wait()
        stop.set()
        await running
        assert app.stopped
        assert loop.closed

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_app_that_ends_by_itself_is_a_failure() -> None:
    async def main() -> None:
        app: Any = _App(forms=True)
        loop: Any = _Loop()
        with pytest.raises(RuntimeError, match="ended by itself"):
            await run_apps([app], [loop], asyncio.Event())
        assert loop.closed

    asyncio.run(asyncio.wait_for(main(), 10))
