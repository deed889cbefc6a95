"""Start a real Kafka from a distribution on this machine: one KRaft node on free loopback ports.

For benchmarks and for tests marked `kafka`. The distribution's folder (KAFKA_HOME) is an argument.
"""

import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 15.0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _write_config(
    home: Path, data: Path, broker: int, controller: int, options: Mapping[str, str] | None = None
) -> Path:
    listen = f"PLAINTEXT://127.0.0.1:{broker}"
    ours = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": f"{listen},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listen,
        "log.dirs": str(data / "log"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
        # A killed broker comes back in seconds: its old registration ends soon.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        **(options or {}),
    }
    shipped = (home / "config" / "server.properties").read_text().splitlines()
    kept = [line for line in shipped if line.partition("=")[0].strip() not in ours]
    config = data / "server.properties"
    config.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in ours.items())]) + "\n")
    return config


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0, "reconnect.backoff.max.ms": 200})
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            admin.list_topics(timeout=1.0)
            return
        except KafkaException:
            continue
    raise RuntimeError(f"Kafka did not start in {START_TIMEOUT_SECONDS} s: {log.read_text()[-2000:]}")


def _output(command: list[str | Path]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} {command[1]} failed: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


class LocalKafka:
    """One broker that can be killed and started again on its ports with what it had on disk.

    `home`: the distribution; `data`: an empty folder for its log; `options`: lines of server.properties
    that replace ours. Raises RuntimeError when Kafka refuses them, and with the end of its log when it
    does not answer. A context manager: started on entry, stopped on exit.
    """

    def __init__(self, home: Path, data: Path, options: Mapping[str, str] | None = None) -> None:
        self._home, self._log = home, data / "kafka.log"
        self._server: subprocess.Popen[bytes] | None = None
        broker, controller = _free_ports(2)
        self.bootstrap_servers = f"127.0.0.1:{broker}"
        data.mkdir(parents=True, exist_ok=True)
        self._config = _write_config(home, data, broker, controller, options)
        self._format()

    def _format(self) -> None:
        storage = self._home / "bin" / "kafka-storage.sh"
        cluster = _output([storage, "random-uuid"]).split()[-1]
        _output([storage, "format", "-t", cluster, "-c", self._config])

    @property
    def running(self) -> bool:
        """Whether its process is there; that it answers is what `start` waits for."""
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start it and return when it answers. Does nothing when it runs already."""
        if self.running:
            return
        command = [self._home / "bin" / "kafka-server-start.sh", self._config]
        with self._log.open("ab") as output:
            server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._server = server
        try:
            _wait(self.bootstrap_servers, server, self._log)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, no client is told. What it acknowledged is in the page cache."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when it takes longer than `STOP_TIMEOUT_SECONDS`."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Start it again on the same ports and log, after a `kill` or instead of one that runs."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
