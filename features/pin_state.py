"""A Pin's merged state: one fixed-width record.

The record is a numpy structured dtype, so a batch of states is one array: it is read from RocksDB
with one `frombuffer`, folded by columns and handed to the transforms without a Python loop. The
title, the one field of free length, travels beside it as its JSON text.
"""

import zlib

import numpy as np
import numpy.typing as npt

from schemas.events import (
    COUPON_CAMPAIGN_TYPES,
    DISPLAY_LOCATIONS,
    MAILER_LOCATIONS,
    VISIT_WINDOWS_DAYS,
)
from schemas.states import TITLE_TOKENS
from schemas.vectors import CONTENT_DIMENSION

Records = npt.NDArray[np.void]

STATUS_CODES = {"active": 1, "paused": 2, "deleted": 3}
STATUS_NAMES = {code: name for name, code in STATUS_CODES.items()}

CHANGED, AGGREGATED = "changed_offset", "aggregated_offset"
"""Record field that holds the last applied offset of each source."""

PIN_RECORD = np.dtype(
    [
        ("pin_id", "<i8"),
        (CHANGED, "<i8"),
        (AGGREGATED, "<i8"),
        ("occurred_at_ms", "<i8"),
        ("ingested_at_ms", "<i8"),
        ("advertiser_id", "<i8"),
        ("price_micros", "<i8"),
        ("bid_micros", "<i8"),
        ("daily_budget_micros", "<i8"),
        ("starts_at_ms", "<i8"),
        ("ends_at_ms", "<i8"),
        ("brand", "<u4"),
        ("category_l1", "<u4"),
        ("category_l2", "<u4"),
        ("category_l3", "<u4"),
        ("title_tokens", "<u4", (TITLE_TOKENS,)),
        ("display_stores", "<i4", (DISPLAY_LOCATIONS,)),
        ("mailer_stores", "<i4", (MAILER_LOCATIONS,)),
        ("coupons", "<i4", (COUPON_CAMPAIGN_TYPES,)),
        ("offsite_visits", "<i4", (len(VISIT_WINDOWS_DAYS),)),
        ("content_embedding", "<f2", (CONTENT_DIMENSION,)),
        ("target_ages", "<u2"),
        ("partition", "<u2"),
        ("status", "u1"),
        ("interest_targeting", "u1"),
        ("search_term_targeting", "u1"),
        ("auto_targeting", "u1"),
        ("engagements", "<i4", (len(VISIT_WINDOWS_DAYS),)),
    ]
)
"""`partition` is the Kafka partition that both offsets count in: a Pin is on the same one of each source."""


def empty_records(pin_ids: npt.NDArray[np.int64]) -> Records:
    """States of Pins about which nothing is known yet. Offsets are -1: every event is newer."""
    records: Records = np.zeros(len(pin_ids), PIN_RECORD)
    records["pin_id"] = pin_ids
    records[CHANGED] = -1
    records[AGGREGATED] = -1
    return records


def stable_hash(text: str) -> int:
    """32-bit hash of a category value, the same in every process and version; 0 is kept for «missing»."""
    return zlib.crc32(text.encode("utf-8")) or 1


def title_tokens(title: str) -> list[int]:
    """Hashes of the first `TITLE_TOKENS` words of a title, lower-cased; padded with 0."""
    words = "".join(c if c.isalnum() else " " for c in title.lower()).split()[:TITLE_TOKENS]
    return [stable_hash(word) for word in words] + [0] * (TITLE_TOKENS - len(words))
