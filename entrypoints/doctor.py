"""`skewless doctor`: findings out of gathered facts. Pure: nothing here asks anything of anybody."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["OK", "WARN", "FAIL", "SKIP"]

GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, what was found, and the command or setting that mends it."""

    check: str
    status: Status
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Known:
    """Versions of a package that are known to be bad, and why. `bad` is asked with the version's numbers."""

    package: str
    bad: Callable[[tuple[int, ...]], bool]
    why: str
    fix: str
    needed: bool = True


def version_numbers(text: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0): the leading numbers; a pre-release counts as its release."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


KNOWN_BAD = (
    Known(
        "faust-streaming",
        lambda v: (0, 13, 1) <= v <= (0, 14, 1),
        "every rebalance raises AttributeError, and agents stall in silence",
        "pip install 'faust-streaming>=0.15.2,<0.16'",
        needed=False,
    ),
    Known(
        "faust-streaming",
        lambda v: v < (0, 15, 2) or v >= (0, 16),
        "rebalances are hardened in 0.15.2; 0.16 is not tried",
        "pip install 'faust-streaming>=0.15.2,<0.16'",
        needed=False,
    ),
    Known(
        "aiokafka",
        lambda v: not (0, 14) <= v < (0, 15),
        "Faust's driver leans on its internals; 0.13 removed what 0.14 brought back",
        "pip install 'aiokafka>=0.14,<0.15'",
        needed=False,
    ),
    Known(
        "confluent-kafka",
        lambda v: v < (2, 16, 1),
        "no produce_batch, on which the worker's rate rests; before 2.13.2 a full queue leaks memory",
        "pip install 'confluent-kafka>=2.16.1'",
    ),
    Known(
        "torch",
        lambda v: v < (2, 10),
        "loading a checkpoint can corrupt memory (CVE-2026-24747)",
        "pip install 'torch>=2.10'",
    ),
    Known(
        "rocksdict", lambda v: v < (0, 3, 29), "not tried with older ones", "pip install 'rocksdict>=0.3.29'"
    ),
    Known("polars", lambda v: v < (1, 20), "the batch decoder needs 1.20", "pip install 'polars>=1.20'"),
    Known(
        "pydantic", lambda v: not (2, 11) <= v < (3,), "schemas need 2.11", "pip install 'pydantic>=2.11,<3'"
    ),
)


def check_versions(python: tuple[int, ...], installed: Mapping[str, str]) -> Iterable[Finding]:
    """Python, and packages with versions known to be bad. `installed`: package -> version."""
    text = ".".join(map(str, python))
    if (3, 11) <= python[:2] < (3, 14):
        yield Finding("python", "OK", text)
    else:
        fix = "Make a virtual environment with Python 3.11, 3.12 or 3.13."
        yield Finding("python", "FAIL", f"{text}; 3.11 to 3.13 are supported", fix)
    for package in dict.fromkeys(one.package for one in KNOWN_BAD):
        yield _package(package, installed.get(package))
    if not installed.keys() & {"faiss-cpu", "faiss-gpu"}:
        yield Finding("faiss", "FAIL", "neither faiss-cpu nor faiss-gpu", "in a clone: pip install '.[cpu]'")


def _package(package: str, version: str | None) -> Finding:
    rules = [one for one in KNOWN_BAD if one.package == package]
    if version is None:
        if rules[0].needed:
            return Finding(package, "FAIL", "not installed", rules[0].fix)
        return Finding(package, "SKIP", "not installed; only the windowed streams need it")
    for one in rules:
        if one.bad(version_numbers(version)):
            return Finding(package, "FAIL", f"{version}: {one.why}", one.fix)
    return Finding(package, "OK", version)


@dataclass(frozen=True)
class HostFacts:
    """The machine, as the processes here see it."""

    data_dir: str
    unwritable: str | None
    """Why nothing can be written into the data directory; None when something can."""
    free_bytes: int
    cores: int
    threads: int
    device: str
    device_error: str | None
    """Why the device cannot be used; None when it can, or is the CPU."""
    port: int
    port_use: Literal["free", "ours", "taken"]
    faust_web_open: bool
    """Whether something listens on 6066, where Faust's unauthenticated web server binds if left on."""


def check_host(host: HostFacts) -> Iterable[Finding]:
    """Disk, cores, device and ports."""
    if host.unwritable:
        yield Finding(
            "data directory",
            "FAIL",
            f"{host.data_dir}: {host.unwritable}",
            "Set SKEWLESS_DATA_DIR to a directory that this user may write to.",
        )
    else:
        yield Finding("data directory", "OK", f"{host.data_dir} can be written to")
    yield _disk(host.free_bytes)
    if host.threads > host.cores:
        found = f"{host.threads} threads on {host.cores} cores: they take turns, and latency grows"
        yield Finding("threads", "WARN", found, f"Set SKEWLESS_THREADS to at most {host.cores}.")
    else:
        yield Finding("threads", "OK", f"{host.threads} on {host.cores} cores")
    if host.device_error:
        yield Finding("device", "FAIL", f"{host.device}: {host.device_error}", "Set SKEWLESS_DEVICE=cpu.")
    else:
        yield Finding("device", "OK", host.device)
    yield _port(host)
    if host.faust_web_open:
        found = "6066 is open: Faust's web server, without a password"
        yield Finding("faust web", "WARN", found, "Start agents by `skewless`, which keeps it off.")


def _disk(free_bytes: int) -> Finding:
    text = f"{free_bytes / GIB:.1f} GiB free"
    if free_bytes < GIB:
        return Finding("disk", "FAIL", text, "Make room, or set SKEWLESS_KEEP_RELEASES lower.")
    if free_bytes < 5 * GIB:
        return Finding("disk", "WARN", text, "A snapshot and a release need room beside the old ones.")
    return Finding("disk", "OK", text)


def _port(host: HostFacts) -> Finding:
    if host.port_use == "taken":
        fix = "End what listens there, or set SKEWLESS_HTTP_PORT."
        return Finding("http port", "FAIL", f"{host.port} is taken by something else", fix)
    found = "a Skewless server answers" if host.port_use == "ours" else "free"
    return Finding("http port", "OK", f"{host.port}: {found}")


@dataclass(frozen=True)
class ArtefactFacts:
    """Towers and releases of the data directory."""

    registry_hash: str
    live: tuple[str, ...] = ()
    current: str | None = None
    release_tower: str | None = None
    """Tower version of the live release."""
    release_registry: str | None = None
    tower_registries: Mapping[str, str] = field(default_factory=dict)
    """Tower version -> the registry hash that it was trained with, for each that is whole."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """`LIVE`, `CURRENT`, a tower version or a release id -> why it was refused."""


def check_artefacts(facts: ArtefactFacts) -> Iterable[Finding]:
    """Whether LIVE, CURRENT and what they name are there, whole, and belong together."""
    for name, why in facts.broken.items():
        yield Finding(f"artefact {name[:20]}", "FAIL", why, _mend(name))
    if not facts.live and "LIVE" not in facts.broken:
        yield Finding("live towers", "WARN", "none: nothing is embedded", "skewless train --live serving")
    for version in facts.live:
        yield from _tower(facts, version)
    if facts.current is None:
        if "CURRENT" not in facts.broken:
            yield Finding("live release", "WARN", "none: nothing is served", "skewless release publish ID")
    elif facts.release_tower is not None:
        yield from _release(facts, facts.current, facts.release_tower)


def _mend(name: str) -> str:
    return {
        "LIVE": "skewless towers live VERSION",
        "CURRENT": "skewless release audit; then skewless release publish ID",
    }.get(name, "skewless release rollback, or build it again: skewless release build SNAPSHOT")


def _tower(facts: ArtefactFacts, version: str) -> Iterable[Finding]:
    registry = facts.tower_registries.get(version)
    if registry is None:
        return
    if registry != facts.registry_hash:
        found = f"{version[:12]} was trained on registry {registry[:12]}, this is {facts.registry_hash[:12]}"
        yield Finding("live tower", "FAIL", found, "skewless train --live serving, or install that version")
    else:
        yield Finding("live tower", "OK", version[:12])


def _release(facts: ArtefactFacts, current: str, tower: str) -> Iterable[Finding]:
    if facts.release_registry != facts.registry_hash:
        found = f"{current} needs registry {(facts.release_registry or '')[:12]}"
        yield Finding("live release", "FAIL", found, "skewless release rollback, or install that version")
    elif facts.live and tower not in facts.live:
        found = f"{current} serves tower {tower[:12]}, which LIVE does not name: its index only grows old"
        # All that LIVE has: a tower that is left out gets no rows any more, and its rollover breaks off.
        named = " ".join(one[:12] for one in (tower, *facts.live))
        yield Finding("live release", "FAIL", found, f"skewless towers live {named}")
    else:
        yield Finding("live release", "OK", f"{current}, tower {tower[:12]}")
