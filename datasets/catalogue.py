"""Products as Pins: their text, a content embedding of it, and the bids that the log does not hold.

**Bids and budgets are policy, not data.** The Complete Journey has no ads, so nobody bid on anything.
`bids` and `budgets` are a deterministic rule, so that an auction can run; no figure that depends on
them says anything about the stores.
"""

import zlib

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.vectors import CONTENT_DIMENSION

from .weeks import YEAR_START_MS

MEDIAN_BID_MICROS = 8_000
BID_SPREAD = 0.5
MEDIAN_BUDGET_IMPRESSIONS = 2_000
BUDGET_SPREAD = 1.0
_CONTENT_SEED = 0


def titles(products: pl.DataFrame) -> pl.Series:
    """Type, category, brand and size, as far as the catalogue has them; else the department."""
    parts = [pl.col(name) for name in ("product_type", "product_category", "brand", "package_size")]
    text = pl.concat_str(parts, separator=", ", ignore_nulls=True)
    named = pl.col("product_type").is_not_null() | pl.col("product_category").is_not_null()
    return products.select(
        pl.when(named)
        .then(text)
        .otherwise(pl.concat_str("department", text, separator=", ", ignore_nulls=True))
        .alias("title")
    )["title"]


def content_embeddings(texts: pl.Series) -> npt.NDArray[np.float16]:
    """Latent semantic analysis of the catalogue's text: shape (len(texts), 48), unit length, fp16.

    TF-IDF of words and word pairs, then a truncated SVD (Deerwester et al. 1990), fitted on the
    distinct texts. The text never changes, so nothing of the future is in it. The same library versions
    and thread count give the same vectors.
    """
    # scikit-learn belongs to the [demo] extra and takes a second to import.
    from sklearn.decomposition import TruncatedSVD  # noqa: PLC0415
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

    distinct = texts.unique(maintain_order=True)
    codes = texts.to_frame("text").join(
        distinct.to_frame("text").with_row_index("code"), on="text", how="left", maintain_order="left"
    )["code"]
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"[A-Za-z0-9]+", sublinear_tf=True)
    weights = vectoriser.fit_transform(distinct.to_list()).astype(np.float32)
    size = min(CONTENT_DIMENSION, *(length - 1 for length in weights.shape))
    svd = TruncatedSVD(size, n_iter=3, random_state=_CONTENT_SEED)
    reduced = svd.fit_transform(weights)
    reduced /= np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-9)
    vectors = np.zeros((len(distinct), CONTENT_DIMENSION), np.float16)
    vectors[:, :size] = reduced
    spread: npt.NDArray[np.float16] = vectors[codes.to_numpy()]
    return spread


def encode_rows(vectors: npt.NDArray[np.float16]) -> pl.Series:
    """Each row as base64 of little-endian fp16."""
    packed, size = vectors.astype("<f2").tobytes(), 2 * vectors.shape[1]
    pieces = pl.Series([packed[i : i + size] for i in range(0, len(packed), size)], dtype=pl.Binary)
    return pieces.bin.encode("base64")


def _normal(ids: npt.NDArray[np.int64], salt: int) -> npt.NDArray[np.float64]:
    """A standard normal number for each id: Box-Muller over two hashes (splitmix64's finaliser)."""
    uniforms = []
    for stream in (1, 2):
        mixed = ids.astype(np.uint64) + np.uint64((salt * 2 + stream) * 0x9E3779B97F4A7C15 % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        uniforms.append(((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53)
    normal: npt.NDArray[np.float64] = np.sqrt(-2 * np.log(uniforms[0])) * np.cos(2 * np.pi * uniforms[1])
    return normal


def bids(products: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Policy: most that one impression may cost, lognormal around a median of its department.

    The department's median is 0.5 to 1.5 times `MEDIAN_BID_MICROS`, by a hash of its name; the Pin's
    bid is that times exp(`BID_SPREAD` * z), z from a hash of its id.
    """
    levels = {
        name: MEDIAN_BID_MICROS * (0.5 + zlib.crc32(name.encode()) / 2**32)
        for name in products["department"].unique().drop_nulls()
    }
    level = products["department"].replace_strict(levels, default=MEDIAN_BID_MICROS, return_dtype=pl.Float64)
    spread = np.exp(BID_SPREAD * _normal(products["product_id"].to_numpy(), salt=1))
    micros: npt.NDArray[np.int64] = np.rint(level.to_numpy() * spread).astype(np.int64)
    return micros


def budgets(products: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Policy: a day's budget, the price of about `MEDIAN_BUDGET_IMPRESSIONS` impressions at the Pin's bid."""
    spread = np.exp(BUDGET_SPREAD * _normal(products["product_id"].to_numpy(), salt=2))
    return np.rint(bids(products) * spread * MEDIAN_BUDGET_IMPRESSIONS).astype(np.int64)


def catalogue_events(products: pl.DataFrame) -> pl.DataFrame:
    """One `PinChanged` for each product, at the year's start, in Pin order; absent fields are null."""
    text = titles(products)
    return pl.DataFrame(
        {
            "pin_id": products["product_id"],
            "occurred_at_ms": pl.repeat(YEAR_START_MS, products.height, dtype=pl.Int64, eager=True),
            "status": pl.repeat("active", products.height, eager=True),
            "title": text,
            "category_l1": products["department"],
            "category_l2": products["product_category"],
            "category_l3": products["product_type"],
            "brand": products["brand"],
            "advertiser_id": products["manufacturer_id"],
            "content_embedding": encode_rows(content_embeddings(text)),
            "target_ages": pl.Series([[]], dtype=pl.List(pl.String)).new_from_index(0, products.height),
            "bid_micros": bids(products),
            "daily_budget_micros": budgets(products),
        }
    )
