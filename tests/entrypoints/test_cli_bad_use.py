"""Wrong usage is told in a line with exit code 2, and a damaged neighbour hides nothing else."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from entrypoints import cli
from entrypoints.output import Output
from entrypoints.process import serve_metrics
from entrypoints.releasing import build_from_snapshot
from entrypoints.settings import Settings
from schemas.codec import encode
from schemas.errors import RetryableError
from tests.entrypoints.test_cli import ROOT, skewless
from tests.entrypoints.world import cut, save_tower
from tests.streams.raw_events import VERSION_A, VERSION_B, ranking_log


@pytest.mark.parametrize(
    "arguments",
    [
        ("rank", "--user", "-1"),
        ("rank", "--user", str(2**63)),
        ("rank", "--user", "1", "--url", "localhost"),
        ("rank", "--user", "1", "--url", "http://256.1.1.1"),
        ("train", "--first-week", "30", "--last-week", "20"),
        ("enrich", "--metrics-port", "99999"),
        ("recount", "--logs", "no/such/directory"),
        ("recount", "--since", "yesterday"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = skewless(*arguments, data_dir=tmp_path)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_damaged_release_is_listed_beside_the_others(tmp_path: Path) -> None:
    tower, settings = save_tower(tmp_path, seed=1), Settings.load(data_dir=tmp_path)
    whole = build_from_snapshot(settings, cut(tmp_path, tower, 20).snapshot_id)
    damaged = build_from_snapshot(settings, cut(tmp_path, tower, 20, hour=1).snapshot_id)
    (settings.releases_dir / damaged.release_id / "manifest.json").write_bytes(b"{}")

    listed = json.loads(skewless("release", "list", "--json", data_dir=tmp_path).stdout)

    rows = {row["release"]: row["snapshot"] for row in listed}
    assert rows == {whole.release_id: whole.snapshot_id, damaged.release_id: "damaged: bad_checksum"}


def test_a_damaged_ranking_log_is_refused_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "ranking-000001.jsonl").write_bytes(b"{garbage\n")

    done = skewless("recount", data_dir=tmp_path)

    assert done.returncode == 1
    assert "ranking-000001.jsonl, line 1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("logs", ["missing", "empty", "file"])
def test_a_recount_without_a_log_is_no_proof(tmp_path: Path, logs: str) -> None:
    if logs == "empty":
        (tmp_path / "logs").mkdir()
    if logs == "file":
        (tmp_path / "logs").touch()

    done = skewless("recount", "--json", data_dir=tmp_path)

    assert (done.returncode, done.stdout) == (3, "")
    assert str(tmp_path / "logs") in done.stderr and "Traceback" not in done.stderr


def _may_not(*_: object) -> NoReturn:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "logs")


def test_a_recount_of_logs_that_may_not_be_read_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Patched, because nothing binds root, whom the tests may run as.
    monkeypatch.setattr(os, "scandir", _may_not)
    monkeypatch.setenv("SKEWLESS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["skewless", "recount"])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (3, "")
    assert "Permission denied" in told.err


def test_a_recount_since_a_moment_counts_what_was_answered_from_then_on(tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    mixed = ranking_log(now_ms - 3_600_000, query_version=VERSION_A, pin_versions=(VERSION_A, VERSION_B))
    rows = (mixed, ranking_log(now_ms - 60_000))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "ranking-000001.jsonl").write_bytes(b"".join(encode(row) + b"\n" for row in rows))
    rollback = datetime.fromtimestamp(now_ms / 1000 - 1_800, UTC).isoformat()

    everything = skewless("recount", "--json", data_dir=tmp_path)
    after = [skewless("recount", "--json", "--since", one, data_dir=tmp_path) for one in ("15m", rollback)]

    assert everything.returncode == 1
    assert [one.returncode for one in after] == [0, 0]
    counts = [json.loads(one.stdout)[0] for one in (everything, *after)]
    assert [(one["responses"], one["mixed"]) for one in counts] == [(2, 1), (1, 0), (1, 0)]


def test_a_data_directory_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = skewless("serve", data_dir=tmp_path / "file")

    assert done.returncode == 3
    assert "Not a directory" in done.stderr and "Traceback" not in done.stderr


def test_a_pointer_that_cannot_be_read_is_not_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "releases").touch()

    done = skewless("release", "show", data_dir=tmp_path)

    assert done.returncode == 3
    assert "Not a directory" in done.stderr and "Write the id" not in done.stderr


def test_a_taken_metrics_port_is_told_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(RetryableError, match=f"127.0.0.1:{port} cannot be bound"):
            serve_metrics(port)


def test_ids_are_printed_whole_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).rows("releases", [{"release": "r" * 90, "snapshot": "s" * 90}])

    assert f"{'r' * 90} │ {'s' * 90}" in capsys.readouterr().out


def test_a_taken_port_is_told_before_any_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "entrypoints.cli", "serve"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | {"SKEWLESS_DATA_DIR": str(tmp_path), "SKEWLESS_HTTP_PORT": str(port)},
            timeout=60,
        )

    assert done.returncode == 3
    assert "SKEWLESS_HTTP_PORT" in done.stderr
    assert "console" not in done.stderr
