import math
import socket
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from entrypoints.demo import DemoOptions, _environment, run_demo
from entrypoints.demo_children import Children
from entrypoints.demo_report import histogram, quantile, since, where_to_look
from entrypoints.settings import Settings
from schemas.errors import Refused, RetryableError


def test_a_quantile_is_interpolated_inside_its_bucket() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("waited_seconds", "x", buckets=(1.0, 2.0, 4.0), registry=registry)
    for value in (0.5, 1.5, 1.5, 3.0):
        seconds.observe(value)

    buckets = histogram(generate_latest(registry).decode(), "waited_seconds")

    assert quantile(buckets, 0.5) == 1.0 + (2.0 - 1.0) * (0.5 * 4 - 1) / 2
    assert quantile(buckets, 1.0) == 4.0
    assert math.isnan(quantile([], 0.5))


def test_the_demo_says_how_other_commands_find_its_broker_and_data(tmp_path: Path) -> None:
    lines = where_to_look(
        "http://127.0.0.1:8080/",
        Settings(data_dir=tmp_path, kafka_bootstrap_servers="127.0.0.1:34567"),
    )

    assert [
        line for line in lines if "127.0.0.1:34567" in line and "SKEWLESS_KAFKA_BOOTSTRAP_SERVERS" in line
    ]
    assert [line for line in lines if f"SKEWLESS_DATA_DIR={tmp_path} skewless release list" in line]


def test_freshness_is_counted_from_the_moment_at_which_the_catalogue_was_served() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("waited_seconds", "x", buckets=(1.0, 2.0, 4.0, 30.0), registry=registry)
    for value in (25.0, 25.0, 0.5):
        seconds.observe(value)
    before = histogram(generate_latest(registry).decode(), "waited_seconds")
    for value in (1.5, 1.5, 3.0, 3.0):
        seconds.observe(value)
    after = histogram(generate_latest(registry).decode(), "waited_seconds")

    assert since(after, before) == [(1.0, 0.0), (2.0, 2.0), (4.0, 4.0), (30.0, 4.0), (math.inf, 4.0)]
    assert quantile(since(after, before), 1.0) == 4.0
    assert since(after, []) == after


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    children = Children({}, tmp_path)
    children.start("schema", "schema", "no.such.topic")

    with pytest.raises(RetryableError, match=r"no\.such\.topic"):
        children.wait_until("nothing", lambda: False, 30)
    children.stop()


def test_stopping_ends_children_that_run(tmp_path: Path) -> None:
    children = Children({}, tmp_path)
    children.start("broker", "broker", "--json")
    children.wait_until("its address", lambda: "bootstrap" in children.log_file("broker").read_text(), 30)

    children.stop()

    assert "Traceback" not in children.log_file("broker").read_text()


def test_the_server_of_a_demo_ends_at_once() -> None:
    assert _environment(Settings(drain_seconds=2.0))["SKEWLESS_DRAIN_SECONDS"] == "0"


def _options(directory: Path, port: int = 0) -> DemoOptions:
    return DemoOptions(once=True, data_dir=directory, port=port, queries_per_second=1.0)


def test_the_demo_does_not_empty_somebody_elses_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")

    with pytest.raises(Refused) as refused:
        run_demo(_options(tmp_path), threading.Event())

    assert refused.value.code == "not_a_demo"
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_two_demos_do_not_share_a_directory(tmp_path: Path) -> None:
    import fcntl  # noqa: PLC0415 - POSIX only, like the lock itself

    (tmp_path / ".skewless-demo").touch()
    with (tmp_path / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Refused) as refused:
            run_demo(_options(tmp_path), threading.Event())

    assert refused.value.code == "demo_running"


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Refused) as refused:
            run_demo(_options(tmp_path / "demo", taken.getsockname()[1]), threading.Event())

    assert refused.value.code == "port_taken"
    assert "--port 0" in refused.value.fix
