"""A root and leaves that misbehave in every way: what is asked, what is waited for, what is counted."""

import logging
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import perf_counter
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from features.shard_slices import Shard
from serving.clock import Clock
from serving.remote_leaves import TIMEOUTS_UNTIL_DOWN, LeafPolicy, Leaves
from serving.root_release import WhenReady
from serving.shard_client import Endpoint, Failure, Reply, ask_all, get_bytes
from serving.shard_telemetry import RootTelemetry
from serving.shard_wire import encode_answer

from .test_gather import OTHER, RELEASE, answer

HOST = "127.0.0.1"


@dataclass
class FakeLeaf:
    """An HTTP server that says what it is told to say."""

    shard: Shard
    held: list[str] = field(default_factory=lambda: ["r1"])
    status: int = 200
    facts: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    silent: threading.Event = field(default_factory=threading.Event)
    """Set: it answers. Cleared: it takes the question and says nothing until it is set."""
    closes: bool = False
    connections: int = 0
    open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.silent.set()
        leaf = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                leaf.connections += 1
                leaf.open.append(self.connection)

            def do_GET(self) -> None:
                said = {"shard": leaf.shard.number, "shards": leaf.shard.shards, "held": leaf.held}
                self._say(200 if leaf.held else 503, orjson.dumps(said))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                leaf.silent.wait(30)
                came = encode_answer(answer(leaf.shard, [0.5, 0.4], **leaf.facts))
                self._say(leaf.status, came if leaf.body is None else leaf.body)

            def _say(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:  # whoever asked has gone
                    self.close_connection = True
                self.close_connection = self.close_connection or leaf.closes

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.server.daemon_threads = True
        self.address = f"{HOST}:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.silent.set()
        self.server.shutdown()
        for connection in self.open:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.server.server_close()


@dataclass
class World:
    """Two fake leaves, a root's view of them, and a clock that tests wind forward."""

    leaves: list[FakeLeaf]
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    ahead: float = 0.0

    def __post_init__(self) -> None:
        self._roots: list[Leaves] = []

    def root(self, **policy: Any) -> Leaves:
        clock = Clock(now_ms=lambda: 0, seconds=lambda: perf_counter() + self.ahead)
        addresses = [leaf.address for leaf in self.leaves]
        made = Leaves(addresses, LeafPolicy(**policy), clock, RootTelemetry(self.metrics))
        made.find()
        made.look()
        self._roots.append(made)
        return made

    def missing(self, shard: int, reason: str) -> float:
        labels = {"shard": str(shard), "reason": reason}
        return self.metrics.get_sample_value("skewless_root_shards_missing_total", labels) or 0.0

    def close(self) -> None:
        for root in self._roots:
            root.close()
        for leaf in self.leaves:
            leaf.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World([FakeLeaf(Shard(1, 2)), FakeLeaf(Shard(2, 2))])
    yield made
    made.close()


class Swaps:
    """What a root's watcher does: it looks at the swap rule and goes over to what that says."""

    def __init__(self, current: Callable[[], str], root: Leaves) -> None:
        self._rule = WhenReady(current, root)

    def __call__(self) -> str | None:
        found = self._rule()
        if found is not None:
            self._rule.serves(found)
        return found


def ask(root: Leaves) -> list[int]:
    """Numbers of the shards that answered usably."""
    return [one.facts.shard for one in root.ask(RELEASE, lambda _: b"a question")]


def test_every_leaf_is_asked_over_connections_that_are_kept(world: World) -> None:
    root = world.root(deadline_seconds=10)
    assert [ask(root) for _ in range(20)] == [[1, 2]] * 20
    # One for looking, one for asking.
    assert [leaf.connections for leaf in world.leaves] == [2, 2]


def test_a_connection_that_was_closed_meanwhile_costs_no_answer(world: World) -> None:
    world.leaves[0].closes = True
    root = world.root(deadline_seconds=10)
    assert [ask(root) for _ in range(5)] == [[1, 2]] * 5
    assert world.leaves[0].connections == 6


def test_a_silent_leaf_costs_the_deadline_and_after_a_few_times_nothing(world: World) -> None:
    world.leaves[1].silent.clear()
    root = world.root(deadline_seconds=0.05)
    assert [ask(root) for _ in range(TIMEOUTS_UNTIL_DOWN)] == [[1]] * TIMEOUTS_UNTIL_DOWN
    assert world.missing(2, "timeout") == TIMEOUTS_UNTIL_DOWN
    assert ask(root) == [1]
    assert world.missing(2, "down") == 1
    world.leaves[1].silent.set()
    root.look()
    assert root.status()[1]["up"] is True


def test_a_dead_leaf_is_left_out_until_it_is_seen_again(world: World) -> None:
    root = world.root(deadline_seconds=10)
    port = world.leaves[1].server.server_port
    dead = world.leaves.pop()
    dead.close()
    assert (ask(root), ask(root)) == ([1], [1])
    assert (world.missing(2, "unreachable"), world.missing(2, "down")) == (1, 1)
    assert root.status()[1]["up"] is False
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOST, port))


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"release_id": "r0"}, "other_release"),
        ({"versions": [OTHER]}, "other_version"),
        ({"tower_version": OTHER}, "other_version"),
        ({"shards": 7}, "other_shard"),
    ],
)
def test_an_answer_that_does_not_fit_is_thrown_away_and_counted(
    world: World, facts: dict[str, Any], why: str
) -> None:
    world.leaves[0].facts = facts
    assert ask(world.root(deadline_seconds=10)) == [2]
    assert world.missing(1, why) == 1


@pytest.mark.parametrize(
    ("status", "body", "why"), [(409, b"{}", "not_held"), (500, b"", "error"), (200, b"x", "malformed")]
)
def test_what_is_no_answer_is_counted(world: World, status: int, body: bytes, why: str) -> None:
    world.leaves[0].status, world.leaves[0].body = status, body
    assert ask(world.root(deadline_seconds=10)) == [2]
    assert world.missing(1, why) == 1


def test_a_leaf_at_the_place_of_another_is_down(world: World) -> None:
    world.leaves.reverse()
    root = world.root()
    assert [leaf["trouble"] for leaf in root.status()] == [
        "it is shard 2/2, not 1/2",
        "it is shard 1/2, not 2/2",
    ]
    assert ask(root) == []


def test_a_swap_waits_for_every_leaf_that_is_up(world: World) -> None:
    root = world.root()
    world.leaves[0].held = ["r2", "r1"]
    root.look()
    current = Swaps(lambda: "r1", root)
    assert current() == "r1"
    moved = Swaps(lambda: "r2", root)
    assert (moved(), root.blocking("r2")) == (None, [world.leaves[1].address])
    world.leaves[1].held = ["r2", "r1"]
    root.look()
    assert (moved(), root.blocking("r2")) == ("r2", [])


def test_what_was_current_stays_so_while_the_next_one_loads(world: World) -> None:
    root, named = world.root(), ["r1"]
    current = Swaps(lambda: named[-1], root)
    assert current() == "r1"
    named.append("r2")
    assert current() == "r1"
    assert world.metrics.get_sample_value("skewless_root_swap_waiting_leaves") == 2


def test_a_served_release_that_fewer_leaves_have_than_current_is_not_waited_with(world: World) -> None:
    root, named = world.root(down_seconds=10.0, look_seconds=0.5), ["r1"]
    current = Swaps(lambda: named[-1], root)
    assert current() == "r1"
    named.append("r3")
    world.leaves[0].held = ["r3", "r2"]
    root.look()
    assert (current(), root.blocking("r3")) == ("r1", [world.leaves[1].address])
    world.leaves.pop().close()
    root.look()
    assert current() == "r1", "what just went down may have it still"
    world.ahead = 11.0
    root.look()
    assert current() == "r3"


def test_a_leaf_that_refuses_what_is_current_does_not_keep_all_others_from_it(world: World) -> None:
    world.leaves.append(FakeLeaf(Shard(3, 3)))
    for number, leaf in enumerate(world.leaves, start=1):
        leaf.shard = Shard(number, 3)
    root, named = world.root(), ["r1"]
    current = Swaps(lambda: named[-1], root)
    assert current() == "r1"
    named.append("r3")
    world.leaves[0].held = ["r3", "r2"]
    root.look()
    assert current() == "r1", "one has r3, two have r1"
    world.leaves[1].held = ["r3", "r2"]
    root.look()
    assert root.blocking("r3") == [world.leaves[2].address]
    assert current() == "r3"
    assert world.metrics.get_sample_value("skewless_root_swap_waiting_leaves") == 0


def test_a_root_that_serves_nothing_waits_for_every_leaf(world: World) -> None:
    world.leaves[0].held = ["r2"]
    assert Swaps(lambda: "r2", world.root())() is None


def test_after_a_rollback_no_leaf_is_waited_for(world: World) -> None:
    root, named = world.root(), ["r1"]
    current = Swaps(lambda: named[-1], root)
    assert current() == "r1"
    for release, waits in (("r2", 2), ("r1", 0)):
        named.append(release)
        assert current() == "r1"
        assert world.metrics.get_sample_value("skewless_root_swap_waiting_leaves") == waits


def test_a_name_that_cannot_be_looked_up_does_not_hold_up_the_looks_at_other_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, looks_up, goes_on = world.root(poll_seconds=0.005), threading.Event(), threading.Event()
    dead, real = world.leaves[1], socket.getaddrinfo
    dead.close()
    root.look()

    def slow(*asked: Any, **named: Any) -> Any:
        looks_up.set()
        goes_on.wait(30)
        return real(*asked, **named)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", slow)
        finding = threading.Thread(target=root.find)
        finding.start()
        assert looks_up.wait(10)
        world.leaves[0].held = ["r2"]
        looking = threading.Thread(target=root.look)
        looking.start()
        looking.join(10)
        held = root.status()[0]["held"]
        goes_on.set()
        looking.join()
        finding.join()
    assert held == ["r2"]


def test_a_leaf_whose_name_has_no_address_for_a_moment_keeps_the_one_that_it_had(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = world.root()

    def nameless(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no address")

    shard, world.leaves[0].shard = world.leaves[0].shard, Shard(2, 2)
    root.look()
    assert root.status()[0]["trouble"] == "it is shard 2/2, not 1/2"
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", nameless)
        root.find()
    world.leaves[0].shard = shard
    root.look()
    assert root.status()[0]["up"] is True


def test_a_name_that_gets_an_address_later_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(*_: Any, **__: Any) -> Any:
        raise socket.gaierror("no address")

    monkeypatch.setattr("serving.remote_leaves.NAMES_SECONDS", 0.005)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", nameless)
        root = world.root(poll_seconds=0.005)
        root.start()
        assert {leaf["trouble"] for leaf in root.status()} == {"its name has no address"}
    assert comes_true(lambda: all(leaf["up"] for leaf in root.status()))


def test_connections_to_a_host_that_has_gone_are_not_asked_over_when_the_name_has_another_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((HOST, 0)) as gone:  # it takes connections and never says anything

        def at_the_old_address(*_: Any, **__: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", gone.getsockname())]

        with monkeypatch.context() as patched:
            patched.setattr(socket, "getaddrinfo", at_the_old_address)
            root = world.root(deadline_seconds=2.0, look_seconds=0.05)
        for leaf in root._leaves:
            for _ in range(10):
                leaf.asking.keep(socket.create_connection(gone.getsockname()), gone.getsockname())
            assert len(leaf.asking.idle) == 10
        root._policy = LeafPolicy(deadline_seconds=2.0)
        root.find()
        root.look()
        assert ask(root) == [1, 2], "the first question is answered"


def test_connections_to_a_leaf_that_went_down_are_closed(world: World) -> None:
    root = world.root(deadline_seconds=0.05)
    kept = [socket.create_connection((HOST, world.leaves[1].server.server_port)) for _ in range(10)]
    for connection in kept:
        root._leaves[1].asking.keep(connection, (HOST, world.leaves[1].server.server_port))
    world.leaves[1].silent.clear()
    for _ in range(TIMEOUTS_UNTIL_DOWN):
        assert 2 not in ask(root)
    assert root.status()[1]["up"] is False
    assert [connection.fileno() for connection in kept] == [-1] * 10


def test_a_connection_to_an_address_that_was_left_meanwhile_is_not_kept(world: World) -> None:
    old, new = ((HOST, leaf.server.server_port) for leaf in world.leaves)
    endpoint, under_way = Endpoint(old), socket.create_connection(old)
    endpoint.move_to(new)
    endpoint.keep(under_way, old)
    assert (under_way.fileno(), len(endpoint.idle)) == (-1, 0)


def test_a_leaf_that_has_been_down_for_long_holds_up_nothing(world: World) -> None:
    root = world.root(down_seconds=10.0, look_seconds=0.5)
    world.leaves[0].held = ["r2"]
    world.leaves.pop().close()
    root.look()
    assert len(root.blocking("r2")) == 1
    world.ahead = 11.0
    root.look()
    assert root.blocking("r2") == []
    assert len(root.blocking("r3")) == 2, "nobody has it: there is nothing to swap to"


@pytest.mark.parametrize(("quorum", "waits"), [(1, 0), (2, 1), (9, 1)])
def test_a_quorum_says_how_many_must_be_ready(world: World, quorum: int, waits: int) -> None:
    world.leaves[0].held = ["r2"]
    assert len(world.root(quorum=quorum).blocking("r2")) == waits


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Reply(200, b"ok")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Failure.BROKEN),
        (b"HTTP/1.1 200 OK\r\n\r\nok", Failure.BROKEN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Failure.BROKEN),
        (b"SSH-2.0-something\r\n\r\n", Failure.BROKEN),
        (b"x" * 20_000, Failure.BROKEN),
        (b"", Failure.UNREACHABLE),
    ],
)
def test_only_a_whole_reply_is_one(reply: bytes, expected: Reply | Failure) -> None:
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = Endpoint(listener.getsockname()[:2])
        (outcome,) = ask_all([(endpoint, get_bytes("/"))], perf_counter() + 10, perf_counter)
        thread.join()
    endpoint.close()
    assert outcome == expected


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more: 0 to 2 are taken, and what is above is beyond the limit."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def comes_true(condition: Callable[[], bool]) -> bool:
    return any(condition() or threading.Event().wait(0.005) for _ in range(2_000))


def test_without_file_descriptors_kept_connections_go_on(world: World) -> None:
    root = world.root(deadline_seconds=10)
    assert ask(root) == [1, 2]
    with no_descriptors():
        root.look()
        assert ask(root) == [1, 2]


def test_a_socket_that_cannot_be_had_is_an_outcome_and_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    endpoints = [Endpoint((HOST, leaf.server.server_port)) for leaf in world.leaves]
    asked = [(endpoint, get_bytes("/")) for endpoint in endpoints]
    with caplog.at_level(logging.WARNING), no_descriptors():
        outcomes = [ask_all(asked, perf_counter() + 10, perf_counter) for _ in range(3)]
    assert outcomes == [[Failure.UNREACHABLE] * 2] * 3
    assert ["Too many open files" in record.message for record in caplog.records] == [True, True]
    assert all(isinstance(one, Reply) for one in ask_all(asked, perf_counter() + 10, perf_counter))
    for endpoint in endpoints:
        endpoint.close()


def test_what_looks_after_the_leaves_outlives_a_moment_without_file_descriptors(world: World) -> None:
    for leaf in world.leaves:
        # So every look needs a new connection.
        leaf.closes = True
    root = world.root(poll_seconds=0.005, look_seconds=0.2)
    root.start()
    with no_descriptors():
        assert comes_true(lambda: not any(leaf["up"] for leaf in root.status()))
    assert comes_true(lambda: all(leaf["up"] for leaf in root.status()))


def test_what_looks_after_the_leaves_outlives_whatever_breaks(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root, broke = world.root(poll_seconds=0.005, look_seconds=10), threading.Event()
    root.start()

    def breaks(*_: object, **__: object) -> None:
        broke.set()
        raise OSError("of a kind that nobody thought of")

    with monkeypatch.context() as broken:
        broken.setattr(RootTelemetry, "leaf_is", breaks)
        assert broke.wait(10)
        world.leaves[0].held = ["r2"]
    assert comes_true(lambda: root.status()[0]["held"] == ["r2"])
    assert any("nobody thought of" in str(record.exc_info) for record in caplog.records)
