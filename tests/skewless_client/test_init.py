import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_HEAVY = ("torch", "faiss", "pyarrow", "numpy", "polars", "features", "streams", "index", "models", "serving")


def test_the_client_loads_nothing_heavy() -> None:
    program = f"import sys, skewless_client; print([name for name in {_HEAVY} if name in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert ran.stdout == "[]\n"


def test_everything_exported_is_there() -> None:
    import skewless_client  # noqa: PLC0415  (this is the subject)

    assert all(hasattr(skewless_client, name) for name in skewless_client.__all__)
