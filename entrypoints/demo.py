"""The demo: the whole system on The Complete Journey, from the first event to a swap under live queries.

It runs the same commands that an operator runs, as child processes over an embedded broker, and prints
only what it measured.
"""

import fcntl
import shutil
import socket
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rich.progress import Progress

from schemas.errors import Refused
from streams.embedded_broker import WARNING, EmbeddedBroker

from .demo_children import Children
from .demo_queries import QueryLoad
from .demo_report import demo_figures, print_figures
from .demo_world import DemoWorld
from .output import messages, progress
from .settings import ENV_PREFIX, Settings

CUT_EVERY_SECONDS = 5.0
"""The hourly cadence, sped up: the demo replays a year in minutes."""
TOWER_A, TOWER_B = ("A", 13, 26), ("B", 15, 40)
"""Name, first and last week of training; held-out baskets are from the two weeks after. A is in a hurry."""

_LOCK, _MARK = ".lock", ".skewless-demo"


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asked for."""

    once: bool
    data_dir: Path
    port: int
    queries_per_second: float


def run_demo(options: DemoOptions, stop: threading.Event) -> dict[str, Any]:
    """Run it, print its figures, keep serving until `stop` unless `once`; returns the figures.

    Raises Refused when another demo uses the directory or the port is taken, RetryableError when a
    child process dies.
    """
    started = time.monotonic()
    with _own_directory(options.data_dir), EmbeddedBroker() as broker:
        messages.print(WARNING, style="yellow")
        settings = _settings(options, broker.bootstrap_servers)
        children = Children(_environment(settings), options.data_dir / "process-logs")
        try:
            with progress() as bars, closing(DemoWorld(settings)) as world:
                figures = _story(world, settings, children, options, bars, started)
            print_figures(figures, settings)
            if not options.once and not stop.is_set():
                messages.print("It stays up; Ctrl-C ends it.", style="dim")
                while not stop.wait(0.5):
                    children.check()
            return figures
        finally:
            children.stop()


def _story(
    world: DemoWorld,
    settings: Settings,
    children: Children,
    options: DemoOptions,
    bars: Progress,
    started: float,
) -> dict[str, Any]:
    """Train A → stream the catalogue → release → first ad → replay the year, train B, swap → recount."""
    laps = Laps(started)
    children.start("train-A", *_train(TOWER_A, "serving"), "--no-item-knn")
    children.start("enrich", "enrich")
    children.start("snapshots", "snapshots")

    world.write_users(before_week=TOWER_A[2] + 1)
    children.start("serve", "serve", "--embedded-broker")
    laps.lap("load data")
    world.replay_catalogue(bars)
    laps.lap("send catalogue")
    task = bars.add_task("train tower A", total=1, note=f"weeks {TOWER_A[1]}-{TOWER_A[2]}")
    children.wait_until("training tower A", lambda: children.finished("train-A"), 300)
    bars.update(task, completed=1)
    laps.lap("train tower A")

    url = f"http://{settings.http_host}:{settings.http_port}"
    first = world.first_answer(url, children)
    laps.lap("first release")
    first_ad_s = time.monotonic() - started
    messages.print(f"first ranked ad after {first_ad_s:.1f} s: {first.ads[0].title}")

    world.wait_for_catalogue(url, children)
    laps.lap("whole catalogue servable")
    load = QueryLoad(url, world.queries(TOWER_A[2] + 1), options.queries_per_second)
    load.start()
    children.start("train-B", *_train(TOWER_B, "candidate"), nice=5)
    replayed = world.replay_year(bars, children)
    laps.lap("replay the year")
    world.wait_for_tower("B", url, children, bars)
    laps.lap("tower B goes live")
    world.wait_until_servable(url, children)
    answers = load.stop()
    laps.lap("last release")
    return demo_figures(world, settings, replayed, answers, first_ad_s, laps.seconds)


class Laps:
    """What the time went into."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = started

    def lap(self, what: str) -> None:
        """Name what has happened since the last lap."""
        now = time.monotonic()
        self.seconds[what] = round(now - self._last, 1)
        self._last = now


def _train(tower: tuple[str, int, int], live: str) -> list[str]:
    name, first, last = tower
    return ["train", "--first-week", str(first), "--last-week", str(last), "--live", live, "--name", name]


def _settings(options: DemoOptions, bootstrap_servers: str) -> Settings:
    return Settings.load(
        data_dir=options.data_dir,
        kafka_bootstrap_servers=bootstrap_servers,
        cut_every_seconds=CUT_EVERY_SECONDS,
        http_port=_free_port(options.port),
        # The demo's cores belong to its replay; it cuts every few seconds as it is.
        delta="off",
    )


def _environment(settings: Settings) -> dict[str, str]:
    """The settings that differ from the defaults, for the children."""
    names = ("data_dir", "kafka_bootstrap_servers", "cut_every_seconds", "http_port", "delta")
    given = {f"{ENV_PREFIX}{name.upper()}": str(getattr(settings, name)) for name in names}
    # Several processes share the cores: threads that wait for each other would cost more than they give.
    given |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # Nobody balances between the demo's servers: there is one.
    return given | {f"{ENV_PREFIX}DRAIN_SECONDS": "0"}


def _free_port(wanted: int) -> int:
    """`wanted`, or a free port for 0. Raises Refused when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise Refused(
                "port_taken", f"port {wanted} to be free", str(error), "Pass --port 0 to take any free one."
            ) from error
        port: int = probe.getsockname()[1]
        return port


class _own_directory:
    """Empties the demo's directory and keeps other demos out. Raises Refused for other people's files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> None:
        path = self._path
        if path.exists() and any(path.iterdir()) and not (path / _MARK).exists():
            raise Refused(
                "not_a_demo",
                expected="an empty directory or one of an earlier demo",
                came=f"{path} with other files",
                fix="Pass --data-dir with another path.",
            )
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise Refused(
                "demo_running",
                f"{path} for itself",
                "another demo there",
                "Stop it, or pass --data-dir and --port 0.",
            ) from error
        (path / _MARK).touch()
        for entry in path.iterdir():
            if entry.name not in (_LOCK, _MARK):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
