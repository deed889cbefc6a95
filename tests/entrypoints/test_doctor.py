"""Planted faults, as facts: each is found, and says what mends it."""

from dataclasses import replace

import pytest

from entrypoints.doctor import (
    GIB,
    ArtefactFacts,
    Finding,
    HostFacts,
    check_artefacts,
    check_host,
    check_versions,
    version_numbers,
)

GOOD = {
    "faust-streaming": "0.15.3",
    "aiokafka": "0.14.0",
    "confluent-kafka": "2.16.1",
    "torch": "2.13.0+cpu",
    "rocksdict": "0.3.29",
    "polars": "2.1.0",
    "pydantic": "2.14.3",
    "faiss-cpu": "1.15.1",
}
HOST = HostFacts(
    data_dir="var",
    unwritable=None,
    free_bytes=100 * GIB,
    cores=2,
    threads=1,
    device="cpu",
    device_error=None,
    port=8080,
    port_use="free",
    faust_web_open=False,
)
A, B, C, OURS, OTHER = "a" * 64, "b" * 64, "c" * 64, "1" * 64, "2" * 64
ARTEFACTS = ArtefactFacts(
    registry_hash=OURS,
    live=(A,),
    current="r1",
    release_tower=A,
    release_registry=OURS,
    tower_registries={A: OURS},
)


def wrong(findings: list[Finding]) -> dict[str, str]:
    """Check -> status, of what is not as it should be; each has a fix."""
    bad = [one for one in findings if one.status in ("WARN", "FAIL")]
    assert all(one.fix for one in bad)
    return {one.check: one.status for one in bad}


def test_a_healthy_host_has_nothing_wrong() -> None:
    findings = [*check_versions((3, 11, 7), GOOD), *check_host(HOST), *check_artefacts(ARTEFACTS)]

    assert {one.status for one in findings} == {"OK"}


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("faust-streaming", "0.13.1"),
        ("faust-streaming", "0.14.1"),
        ("faust-streaming", "0.15.1"),
        ("faust-streaming", "0.16.0"),
        ("torch", "2.9.1"),
        ("confluent-kafka", "2.16.0"),
        ("aiokafka", "0.13.0"),
        ("aiokafka", "0.15.0"),
        ("rocksdict", "0.3.28"),
        ("polars", "1.19.0"),
        ("pydantic", "3.0"),
    ],
)
def test_a_version_known_to_be_bad_is_found_with_why(package: str, version: str) -> None:
    findings = list(check_versions((3, 12, 1), GOOD | {package: version}))

    assert wrong(findings) == {package: "FAIL"}
    (found,) = [one for one in findings if one.check == package]
    assert found.found.startswith(f"{version}: ")
    assert "pip install" in found.fix


def test_the_rebalance_bug_is_named_where_it_is_and_not_where_it_is_not() -> None:
    def said(version: str) -> str:
        return next(
            one.found
            for one in check_versions((3, 11, 0), GOOD | {"faust-streaming": version})
            if one.check == "faust-streaming"
        )

    assert "every rebalance" in said("0.13.1")
    assert "every rebalance" in said("0.14.1")
    assert "every rebalance" not in said("0.13.0")
    assert "every rebalance" not in said("0.15.0")


def test_a_missing_package_fails_unless_only_some_need_it() -> None:
    bare = {name: one for name, one in GOOD.items() if name not in ("torch", "faiss-cpu", "faust-streaming")}
    findings = list(check_versions((3, 11, 0), bare))

    assert wrong(findings) == {"torch": "FAIL", "faiss": "FAIL"}
    assert [one.status for one in findings if one.check == "faust-streaming"] == ["SKIP"]


@pytest.mark.parametrize("python", [(3, 10, 12), (3, 14, 0)])
def test_a_python_that_is_not_supported_is_found(python: tuple[int, ...]) -> None:
    assert wrong(list(check_versions(python, GOOD))) == {"python": "FAIL"}


def test_versions_are_compared_as_numbers() -> None:
    assert version_numbers("2.13.0+cpu") == (2, 13, 0)
    assert version_numbers("0.15.0rc1") == (0, 15, 0)
    assert version_numbers("dev") == ()


@pytest.mark.parametrize(
    ("fault", "check", "status"),
    [
        ({"unwritable": "Permission denied"}, "data directory", "FAIL"),
        ({"free_bytes": GIB - 1}, "disk", "FAIL"),
        ({"free_bytes": 5 * GIB - 1}, "disk", "WARN"),
        ({"threads": 3}, "threads", "WARN"),
        ({"device": "cuda", "device_error": "torch sees no CUDA device"}, "device", "FAIL"),
        ({"port_use": "taken"}, "http port", "FAIL"),
        ({"faust_web_open": True}, "faust web", "WARN"),
    ],
)
def test_a_fault_of_the_host_is_found(fault: dict[str, object], check: str, status: str) -> None:
    assert wrong(list(check_host(replace(HOST, **fault)))) == {check: status}  # type: ignore[arg-type]


def test_a_server_of_ours_on_the_port_is_no_fault() -> None:
    assert wrong(list(check_host(replace(HOST, port_use="ours")))) == {}


def test_a_live_release_whose_tower_is_not_live_gets_it_in_front_of_those_that_are() -> None:
    fault = replace(ARTEFACTS, live=(B, C), tower_registries={B: OURS, C: OURS})
    (finding,) = (one for one in check_artefacts(fault) if one.status == "FAIL")

    assert finding.fix == f"skewless towers live {A[:12]} {B[:12]} {C[:12]}"


@pytest.mark.parametrize(
    ("fault", "check", "status"),
    [
        ({"live": ()}, "live towers", "WARN"),
        ({"current": None, "release_tower": None}, "live release", "WARN"),
        ({"live": (B,), "tower_registries": {A: OURS, B: OURS}}, "live release", "FAIL"),
        ({"tower_registries": {A: OTHER}}, "live tower", "FAIL"),
        ({"release_registry": OTHER}, "live release", "FAIL"),
        ({"broken": {A: "bad_checksum: weights.safetensors"}}, "artefact " + "a" * 20, "FAIL"),
        ({"live": (), "broken": {"LIVE": "live_towers: {}"}}, "artefact LIVE", "FAIL"),
        (
            {"current": None, "release_tower": None, "broken": {"CURRENT": "bad_current"}},
            "artefact CURRENT",
            "FAIL",
        ),
    ],
)
def test_a_fault_of_towers_or_releases_is_found(fault: dict[str, object], check: str, status: str) -> None:
    assert wrong(list(check_artefacts(replace(ARTEFACTS, **fault)))) == {check: status}  # type: ignore[arg-type]
