"""What the delta segment costs: per query, per refresh, and per row that is read.

`python -m benchmarks.delta_merge [--quick]`. One release of 92,000 synthetic Pins is searched with delta
segments of growing size over it, in turns, so that all see the same machine. A query is what a request asks
of its inventory: search for 1,000 Pins, then their attributes. Half of an overlay replaces Pins of the
release, half is new. `patched` is the same with attributes only. Decoding and folding is measured over
rows as the enrichment worker writes them.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from features.definitions import registry
from features.pin_state import empty_records
from index.delta import build_segment
from index.delta_fold import NO_VERSION, DeltaFold
from index.embedding_table import EmbeddedBatch
from index.releases import ReleaseStore
from index.row_files import ATTRIBUTES
from serving.auction import AuctionPolicy
from serving.inventory import Inventory
from serving.ledger import SpendLedger
from serving.live_release import Assembly, LiveRelease, ReleaseLoader
from serving.server import tune_interpreter
from streams.embedded_batches import EmbeddedDecoder, Message
from streams.embedded_rows import embedded_rows

from .fixtures import NOW_MS, catalogue, save_release, save_tower
from .report import report

BAR_SECONDS = 0.0005
"""Added to the median query by 10,000 overlay rows: what an hour of changes to a tenth of the Pins gives."""
BASE_PINS = 92_000
SIZES = (0, 1_000, 10_000, 100_000)
WIDTH = 1_000
DECODED_ROWS, BATCH_ROWS = 40_000, 4_000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delta_merge", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer queries")
    quick: bool = parser.parse_args(arguments).quick
    tune_interpreter()
    with tempfile.TemporaryDirectory(prefix="skewless-delta-") as directory:
        release = load(Path(directory))
        details = measure(release, queries=200 if quick else 2_000)
        details["decode_and_fold"] = decode_and_fold(release)
    added = details["overlay_10000"]["added_p50_seconds"]
    return report(
        "delta_merge", added, "s added to p50", BAR_SECONDS, added <= BAR_SECONDS, details, quick=quick
    )


def load(data: Path) -> LiveRelease:
    """A release of `BASE_PINS` made-up Pins."""
    release_id = save_release(data, save_tower(data, seed=1), catalogue(BASE_PINS, seed=0))
    assembly = Assembly(registry().content_hash, AuctionPolicy(), SpendLedger(), lambda: NOW_MS)
    return ReleaseLoader(ReleaseStore(data / "releases"), data / "towers", registry(), assembly).load(
        release_id
    )


def measure(release: LiveRelease, queries: int) -> dict[str, Any]:
    """Every size of segment, asked in turns; what each adds to the release without one."""
    views: dict[str, Inventory] = {"none": release.inventory()}
    found: dict[str, Any] = {"data": "synthetic Pins and vectors", "base_pins": BASE_PINS, "width": WIDTH}
    for size in SIZES:
        for kind, version in (("overlay", release.index.tower_version), ("patched", NO_VERSION)):
            if size or kind == "overlay":
                fold = fold_of(release, size, version)
                refresh = [timed(partial(refresh_once, release, fold)) for _ in range(5)]
                views[f"{kind}_{size}"] = release.inventory()
                found[f"{kind}_{size}"] = {"refresh_p50_seconds": float(np.median(refresh))}
    seconds = asked(views, release, queries)
    found["none"] = quantiles(seconds["none"])
    for name, values in seconds.items():
        if name != "none":
            added = float(np.median(np.array(values) - np.array(seconds["none"])))
            found[name] |= quantiles(values) | {"added_p50_seconds": added}
    return found


def asked(views: dict[str, Inventory], release: LiveRelease, queries: int) -> dict[str, list[float]]:
    """Seconds of each query on each view. Queries are vectors near Pins', as an asker's are."""
    rng = np.random.default_rng(7)
    near = release.index.vectors[rng.integers(0, BASE_PINS, queries)].astype(np.float32)
    near += 0.1 * rng.standard_normal(near.shape, np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in views}
    for number, query in enumerate(near):
        for name, view in views.items():
            took = timed(partial(ask, view, query, number % 7))
            if number >= queries // 10:
                seconds[name].append(took)
    return seconds


def ask(view: Inventory, query: np.ndarray[Any, np.dtype[np.float32]], age_band: int) -> None:
    """What a request asks of its Pins."""
    view.describe(view.search(query, age_band, NOW_MS, WIDTH).rows)


def fold_of(release: LiveRelease, size: int, version: str) -> DeltaFold:
    """A fold of `size` changed Pins: with embeddings half of them are new."""
    dimension = release.manifest.index.dimension
    fold = DeltaFold(max_vectors=size)
    fold.keep({release.index.tower_version: dimension})
    if not size:
        return fold
    rng = np.random.default_rng(size)
    in_base = min(size if version == NO_VERSION else size // 2, BASE_PINS)
    rows = np.zeros(size if version != NO_VERSION else in_base, ATTRIBUTES)
    rows[:in_base] = release.index.attributes[rng.permutation(BASE_PINS)[:in_base]]
    rows[in_base:] = release.index.attributes[rng.integers(0, BASE_PINS, len(rows) - in_base)]
    rows["pin_id"][in_base:] = BASE_PINS + 1 + np.arange(len(rows) - in_base)
    rows["changed_offset"] += 1
    rows["ingested_at_ms"] = NOW_MS
    made = release.index.vectors[rng.integers(0, BASE_PINS, len(rows))]
    empty = version == NO_VERSION
    fold.apply(
        EmbeddedBatch(
            attributes=rows,
            vectors=[b"" if empty else vector.tobytes() for vector in made],
            titles=["A newer title"] * len(rows),
            versions=[version],
            version_code=np.zeros(len(rows), np.uint8),
        )
    )
    return fold


def refresh_once(release: LiveRelease, fold: DeltaFold) -> None:
    """Build a segment and lay it over the release."""
    base = release.shelf.base()
    assert base is not None
    release.shelf.refresh(build_segment(fold, base, release.manifest.index.dimension))


def decode_and_fold(release: LiveRelease) -> dict[str, float]:
    """Rows a second from message bytes to folded columns, one thread."""
    pins = empty_records(np.arange(1, DECODED_ROWS + 1))
    pins["bid_micros"], pins["changed_offset"] = 10_000, 5
    version, dimension = release.index.tower_version, release.manifest.index.dimension
    vectors = np.random.default_rng(3).standard_normal((DECODED_ROWS, dimension), np.float32)
    rows = embedded_rows(version, pins, [b'"A title"'] * DECODED_ROWS, vectors, pins["pin_id"])
    messages = [
        Message(0, place, 0, key.encode(), value.encode())
        for place, (key, value) in enumerate(zip(rows.keys, rows.values, strict=True))
    ]
    decoder, fold = EmbeddedDecoder(), DeltaFold(DECODED_ROWS)
    fold.keep({version: dimension})
    batches = [messages[at : at + BATCH_ROWS] for at in range(0, DECODED_ROWS, BATCH_ROWS)]
    decode, folding = 0.0, 0.0
    for batch in batches:
        started = time.perf_counter()
        decoded = decoder.decode(batch, {version: dimension}).batch
        middle = time.perf_counter()
        fold.apply(decoded)
        decode, folding = decode + middle - started, folding + time.perf_counter() - middle
    return {
        "rows_per_second": DECODED_ROWS / (decode + folding),
        "decode_seconds_per_row": decode / DECODED_ROWS,
        "fold_seconds_per_row": folding / DECODED_ROWS,
    }


def timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def quantiles(values: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.quantile(values, (0.5, 0.99)).tolist()
    return {"query_p50_seconds": p50, "query_p99_seconds": p99}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
