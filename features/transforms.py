"""Pure, vectorised feature transforms: a batch of records in, one array out.

Each is used as it is by training, by the enrichment worker and by serving. Changing what one returns
for any input means raising its feature's `version`; `tests/features/golden.json` notices when not.
"""

import numpy as np
import numpy.typing as npt

from schemas.times import DAY_MS, HOUR_MS

Records = npt.NDArray[np.void]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

PIN_BUCKETS = 1 << 17
ADVERTISER_BUCKETS = 1 << 13
CATEGORY_BUCKETS = (64, 1024, 8192)
TOKEN_BUCKETS = 1 << 14
BRAND_BUCKETS = 32
SEGMENT_BUCKETS = 256

STORES = 115.0
"""Largest number of stores in the chain; only scales the placement shares to about 0 to 1."""

_GOLDEN_RATIO_64 = np.uint64(0x9E3779B97F4A7C15)


def bucket_ids(ids: npt.NDArray[np.integer], buckets: int) -> Ints:
    """Fibonacci-hash 64-bit ids into 1 … buckets-1. Ids below 0 are missing and become 0."""
    mixed = (ids.astype(np.uint64) * _GOLDEN_RATIO_64) >> np.uint64(24)
    hashed: Ints = (mixed % np.uint64(buckets - 1)).astype(np.int64) + 1
    return np.where(ids < 0, 0, hashed)


def _bucket_hashes(hashes: npt.NDArray[np.uint32], buckets: int) -> Ints:
    """Fold 32-bit text hashes into 1 … buckets-1; the hash 0 is «missing» and stays 0."""
    folded: Ints = (hashes % np.uint32(buckets - 1)).astype(np.int64) + 1
    return np.where(hashes == 0, 0, folded)


def pin_id(pins: Records) -> Ints:
    """The Pin itself, hashed."""
    return bucket_ids(pins["pin_id"], PIN_BUCKETS)


def title_tokens(pins: Records) -> Ints:
    """The first words of the title, hashed; 0 pads."""
    return _bucket_hashes(pins["title_tokens"], TOKEN_BUCKETS)


def category_l1(pins: Records) -> Ints:
    """Widest category."""
    return _bucket_hashes(pins["category_l1"], CATEGORY_BUCKETS[0])


def category_l2(pins: Records) -> Ints:
    """Middle category."""
    return _bucket_hashes(pins["category_l2"], CATEGORY_BUCKETS[1])


def category_l3(pins: Records) -> Ints:
    """Narrowest category."""
    return _bucket_hashes(pins["category_l3"], CATEGORY_BUCKETS[2])


def brand(pins: Records) -> Ints:
    """Brand."""
    return _bucket_hashes(pins["brand"], BRAND_BUCKETS)


def advertiser(pins: Records) -> Ints:
    """Advertiser (the manufacturer), hashed; advertiser 0 is «unknown»."""
    ids = pins["advertiser_id"]
    return np.where(ids == 0, 0, bucket_ids(ids, ADVERTISER_BUCKETS))


def price(pins: Records) -> Floats:
    """log(1 + price in currency units)."""
    logged: Floats = np.log1p(pins["price_micros"].astype(np.float32) * np.float32(1e-6))
    return logged


def display_share(pins: Records) -> Floats:
    """Share of stores that show the product, by display location."""
    return pins["display_stores"].astype(np.float32) / np.float32(STORES)


def mailer_share(pins: Records) -> Floats:
    """Share of stores whose mailer shows the product, by place in the mailer."""
    return pins["mailer_stores"].astype(np.float32) / np.float32(STORES)


def coupon_count(pins: Records) -> Floats:
    """log(1 + live coupons), by campaign type."""
    logged: Floats = np.log1p(pins["coupons"].astype(np.float32))
    return logged


def targeting_flags(pins: Records) -> Floats:
    """The targeting spec's modes: interest, search term, automatic."""
    names = ("interest_targeting", "search_term_targeting", "auto_targeting")
    return np.stack([pins[name] for name in names], axis=1).astype(np.float32)


def offsite_visits(pins: Records) -> Floats:
    """log(1 + offsite conversion visits) in 1, 7, 30 and 90 days."""
    logged: Floats = np.log1p(pins["offsite_visits"].astype(np.float32))
    return logged


def content(pins: Records) -> Floats:
    """The content encoder's embedding."""
    return pins["content_embedding"].astype(np.float32)


def history_pins(users: Records) -> Ints:
    """Pins of the user's history, strongest first, hashed like `pin_id`; 0 pads."""
    return bucket_ids(users["history_pins"], PIN_BUCKETS)


def history_categories(users: Records) -> Ints:
    """Narrowest category of each Pin of the history."""
    return _bucket_hashes(users["history_categories"], CATEGORY_BUCKETS[2])


def history_weights(users: Records) -> Floats:
    """Share of the user's decayed engagement that each Pin of the history holds; sums to 1 or is all 0."""
    scores = users["history_scores"].astype(np.float32)
    total = scores.sum(axis=1, keepdims=True)
    shares: Floats = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
    return shares


def demographics(users: Records) -> Ints:
    """The seven demographic segments, each value hashed together with its position; 0 is unknown."""
    segments = users["segments"]
    positions = np.arange(segments.shape[1], dtype=np.uint32)
    salted = (segments ^ (positions * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA6B)
    # NOTE: 2^32 is 1 modulo 255 buckets, so sums alone would undo the salt; the shift mixes it in.
    salted ^= salted >> np.uint32(15)
    return np.where(segments == 0, 0, _bucket_hashes(np.maximum(salted, 1), SEGMENT_BUCKETS))


def hour_of_week(contexts: Records) -> Ints:
    """Hour of the week (UTC, Thursday 00:00 first, as the epoch), 1 to 168."""
    times = contexts["occurred_at_ms"]
    return (times // HOUR_MS) % 168 + 1


def days_since_engagement(contexts: Records) -> Floats:
    """log(1 + days since the user's last engagement); 0 when there was none."""
    last = contexts["last_engaged_at_ms"]
    days = np.maximum(contexts["occurred_at_ms"] - last, 0).astype(np.float32) / np.float32(DAY_MS)
    return np.where(last > 0, np.log1p(days), np.float32(0))
