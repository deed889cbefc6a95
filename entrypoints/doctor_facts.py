"""What the doctor looks at, gathered: this machine, the data directory, Kafka. Nothing is changed."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeVar

from schemas.errors import Refused, RetryableError

from .doctor import (
    KNOWN_BAD,
    ArtefactFacts,
    Finding,
    HostFacts,
    check_artefacts,
    check_host,
    check_versions,
)
from .doctor_kafka import Needs, check_kafka, our_topics
from .kafka_connection import kafka_settings
from .settings import Settings

T = TypeVar("T")

_FAUST_PORT = 6066
_ASK_SECONDS = 1.0


def installed_packages() -> dict[str, str]:
    """Package -> version, of those that there is something to say about."""
    found: dict[str, str] = {}
    for package in {one.package for one in KNOWN_BAD} | {"faiss-cpu", "faiss-gpu"}:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def host_facts(settings: Settings) -> HostFacts:
    """The machine, as the settings make use of it."""
    return HostFacts(
        data_dir=str(settings.data_dir),
        unwritable=_unwritable(settings.data_dir),
        free_bytes=shutil.disk_usage(_existing(settings.data_dir)).free,
        cores=_cores(),
        threads=settings.threads,
        device=settings.device,
        device_error=_device_error(settings.device),
        port=settings.http_port,
        port_use=_port_use(settings.http_host, settings.http_port),
        faust_web_open=_answers("127.0.0.1", _FAUST_PORT),
    )


def _cores() -> int:
    """Those that this process may run on, which a container may have made fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _existing(path: Path) -> Path:
    """The path, or what there is of it."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _unwritable(data_dir: Path) -> str | None:
    where = _existing(data_dir)
    try:
        with tempfile.TemporaryFile(dir=where):
            return None
    except OSError as error:
        return f"{where}: {error.strerror}"


def _device_error(device: str) -> str | None:
    if device == "cpu":
        return None
    import torch  # noqa: PLC0415 - takes seconds, and only a GPU needs it

    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    if chosen.type != "cuda":
        return None
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    count = torch.cuda.device_count()
    return None if (chosen.index or 0) < count else f"there are {count} CUDA devices"


def _port_use(host: str, port: int) -> Literal["free", "ours", "taken"]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return "ours" if _is_our_server(host, port) else "taken"
    return "free"


def _is_our_server(host: str, port: int) -> bool:
    import httpx  # noqa: PLC0415 - only where somebody is there

    try:
        answer = httpx.get(f"http://{host}:{port}/v1/status", timeout=_ASK_SECONDS)
        return answer.status_code == httpx.codes.OK and "release" in answer.text
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_ASK_SECONDS):
            return True
    except OSError:
        return False


def artefact_facts(settings: Settings) -> ArtefactFacts:
    """Towers and releases: the pointers, and the manifests of what they name, checksums included."""
    from features.definitions import registry  # noqa: PLC0415 - keeps `--help` quick
    from models.live_towers import read_live_towers  # noqa: PLC0415
    from schemas.artefacts import MANIFEST, read_manifest, verify_files  # noqa: PLC0415
    from schemas.manifests import TowerManifest  # noqa: PLC0415

    from .store_connection import release_store  # noqa: PLC0415

    broken: dict[str, str] = {}
    store = _or_broken(broken, "store", lambda: release_store(settings))
    live = _or_broken(broken, "LIVE", lambda: read_live_towers(settings.towers_dir)) or []
    current = _or_broken(broken, "CURRENT", store.current) if store else None
    release = _or_broken(broken, current, partial(store.manifest, current)) if store and current else None
    needed = list(dict.fromkeys([*live, *([release.tower_version] if release else [])]))

    def whole(tower: str) -> TowerManifest:
        directory = settings.towers_dir / tower
        manifest = read_manifest(directory, TowerManifest)
        verify_files(directory, [one for one in manifest.files if one.name != MANIFEST])
        return manifest

    towers = {tower: _or_broken(broken, tower, partial(whole, tower)) for tower in needed}
    return ArtefactFacts(
        registry_hash=registry().content_hash,
        live=tuple(live),
        current=current,
        release_tower=release.tower_version if release else None,
        release_registry=release.registry_hash if release else None,
        tower_registries={tower: one.registry_hash for tower, one in towers.items() if one},
        broken=broken,
    )


def _or_broken(broken: dict[str, str], name: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except Refused as refused:
        broken[name] = f"{refused.code}: expected {refused.expected}; came {refused.came}"
    except (RetryableError, OSError) as error:
        broken[name] = str(error)
    return None


def declaration_findings(settings: Settings) -> Iterable[Finding]:
    """Whether `tiers.json` and the record of a rollover can be read: damaged, they stop the processes."""
    from .rollover_record import read_rollover  # noqa: PLC0415 - keeps `--help` quick

    yield _declared("tiers", lambda: ", ".join(one.name for one in settings.tiers().tiers))

    def rollover() -> str:
        record = read_rollover(settings)
        return f"to tower {record.candidate[:12]}" if record else "none under way"

    yield _declared("rollover", rollover)


def _declared(check: str, read: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "OK", read())
    except Refused as refused:
        found = f"{refused.code}: expected {refused.expected}; came {refused.came}"
        return Finding(check, "FAIL", found, refused.fix)
    except OSError as error:
        return Finding(check, "FAIL", str(error), "Let this user read it.")


def kafka_findings(settings: Settings) -> list[Finding]:
    """What there is to say about the configured Kafka."""
    from streams.topic_report import gather_kafka  # noqa: PLC0415 - keeps `--help` quick

    try:
        connection = kafka_settings(settings)
    except RetryableError as error:
        fix = "Set SKEWLESS_KAFKA_BOOTSTRAP_SERVERS; embedded: skewless broker"
        return [Finding("broker", "WARN", str(error).partition(":")[0], fix)]
    except Refused as refused:
        return [Finding("login", "FAIL", f"{refused.code}: {refused.came}", refused.fix)]
    interval_ms = int(settings.cut_every_seconds * 1000) or 3_600_000
    return list(check_kafka(gather_kafka(connection, our_topics()), Needs(interval_ms)))


def examine(settings: Settings) -> list[Finding]:
    """Every check. Takes 10 seconds at most: Kafka is asked while the rest is looked at."""
    with ThreadPoolExecutor(1) as beside:
        kafka = beside.submit(kafka_findings, settings)
        findings: list[Finding] = []
        here: Iterable[Iterable[Finding]] = (
            check_versions(sys.version_info[:3], installed_packages()),
            check_host(host_facts(settings)),
            check_artefacts(artefact_facts(settings)),
            declaration_findings(settings),
        )
        for each in here:
            findings += each
        return findings + kafka.result()
