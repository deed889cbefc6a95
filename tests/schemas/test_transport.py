import pytest

from schemas.transport import remote_hosts


@pytest.mark.parametrize(
    "local",
    ["localhost:9092", "127.0.0.1:1", "[::1]:9092", "PLAINTEXT://127.8.8.8:9092", "", " localhost:1 , "],
)
def test_this_host_is_not_remote(local: str) -> None:
    assert remote_hosts(local) == []


def test_every_other_host_is_named() -> None:
    assert remote_hosts("localhost:1,kafka-1:9092,SSL://10.0.0.1:9093,[fe80::1]:9") == [
        "kafka-1",
        "10.0.0.1",
        "fe80::1",
    ]


def test_a_name_that_only_looks_local_is_remote() -> None:
    assert remote_hosts("localhost.example.com:9092") == ["localhost.example.com"]
