"""What every benchmark prints and keeps: one JSON object, last line of stdout; full runs also a file."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("numpy", "torch", "faiss-cpu", "faiss-gpu", "polars", "pyarrow", "confluent-kafka", "rocksdict")


def report(
    name: str,
    value: float,
    unit: str,
    bar: float,
    ok: bool,
    details: dict[str, Any],
    *,
    quick: bool,
    file: str | None = None,
) -> int:
    """Print the result; a full run also writes `benchmarks/results/<name>.json`. Returns the exit status.

    `file`: another name for the file, for a part of a benchmark that is too long to repeat as a whole.
    `bar` is the value that was promised, `ok` whether it was met.
    """
    result = {"name": name, "value": value, "unit": unit, "bar": bar, "ok": ok, "details": details}
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        kept = result | {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
            "machine": machine(),
        }
        (RESULTS / f"{file or name}.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result), flush=True)
    return 0 if ok else 1


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerator, Python and the versions that decide speed."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu_model(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _gpu_model() -> str | None:
    """Only when the benchmark itself has loaded torch: importing it takes a second."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name(0)) if torch is not None and torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
