"""Start a real Kafka from a distribution on this machine: one KRaft node on free loopback ports.

For benchmarks and for tests marked `kafka`. The distribution's folder (KAFKA_HOME) is an argument.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

START_TIMEOUT_SECONDS = 60.0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _write_config(home: Path, data: Path, broker: int, controller: int) -> Path:
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


@contextmanager
def local_kafka(home: Path, data: Path) -> Iterator[str]:
    """A running broker's bootstrap address. `home`: the distribution; `data`: an empty folder for its log.

    Raises RuntimeError with the end of Kafka's log when it does not start.
    """
    broker, controller = _free_ports(2)
    data.mkdir(parents=True, exist_ok=True)
    config, storage = _write_config(home, data, broker, controller), home / "bin" / "kafka-storage.sh"
    cluster = subprocess.run([storage, "random-uuid"], check=True, capture_output=True).stdout.decode()
    format_command: list[str | Path] = [storage, "format", "-t", cluster.split()[-1], "-c", config]
    subprocess.run(format_command, check=True, capture_output=True)
    log = data / "kafka.log"
    with log.open("wb") as output:
        start = [home / "bin" / "kafka-server-start.sh", config]
        server = subprocess.Popen(start, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(f"127.0.0.1:{broker}", server, log)
            yield f"127.0.0.1:{broker}"
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
