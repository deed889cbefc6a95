"""Annotations and content embeddings of real products, from the source's text to the worker's state."""

import numpy as np
import polars as pl
import pytest

from datasets.complete_journey import Journey
from features.definitions import registry
from features.pin_state import PIN_RECORD, Records, stable_hash, title_tokens
from features.store import MemoryStore
from schemas.topics import PIN_CHANGED
from schemas.vectors import CONTENT_DIMENSION, decode_fp16
from streams.enrichment import enrich
from streams.replay import encode_events
from streams.sources import SourceBatch, enrichment_sources
from streams.state_rows import StateRowDecoder, feature_rows

SAMPLE = 2_000
ANNOTATIONS = ("category_l1", "category_l2", "category_l3", "brand")


@pytest.fixture(scope="module")
def sampled() -> pl.DataFrame:
    """Catalogue events of products chosen at random from all 92,331."""
    return Journey.installed().catalogue.sample(SAMPLE, seed=28)


def _served(frame: pl.DataFrame) -> Records:
    """The state that the worker holds after these events, and that a restore gives back."""
    keys, values = encode_events(frame)
    source, size = enrichment_sources()[PIN_CHANGED.name], len(values)
    numbers = np.arange(size)
    batch = SourceBatch(source, keys, values, np.zeros(size, np.int64), numbers, numbers, lambda row: None)
    done = enrich([batch], MemoryStore(PIN_RECORD), [], lambda: 0.0)
    assert done.letters == []
    rows = feature_rows(done.records, done.tails)
    read = StateRowDecoder().decode([value.encode() for value in rows.values], np.zeros(size, np.int64))
    return read.records


@pytest.mark.demo_data
def test_served_annotations_are_the_sources(sampled: pl.DataFrame) -> None:
    served = _served(sampled)
    by_pin = {row["pin_id"]: row for row in sampled.iter_rows(named=True)}
    assert len(served) == SAMPLE
    for record in served:
        source = by_pin[int(record["pin_id"])]
        for name in ANNOTATIONS:
            wanted = 0 if source[name] is None else stable_hash(source[name])
            assert record[name] == wanted, (source, name)
        assert record["title_tokens"].tolist() == title_tokens(source["title"] or "")
        assert record["advertiser_id"] == source["advertiser_id"]


@pytest.mark.demo_data
def test_the_content_embedding_has_its_dimension_and_covers_every_product_with_text(
    sampled: pl.DataFrame,
) -> None:
    served = _served(sampled)
    by_pin = {row["pin_id"]: row["content_embedding"] for row in sampled.iter_rows(named=True)}
    spec = next(one for one in registry().specs if one.name == "content")
    assert spec.shape == (CONTENT_DIMENSION,) == served["content_embedding"].shape[1:]
    for record in served:
        assert record["content_embedding"].tolist() == list(decode_fp16(by_pin[int(record["pin_id"])]))
    assert np.any(served["content_embedding"], axis=1).mean() > 0.99
