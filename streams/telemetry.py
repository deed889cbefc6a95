"""Every metric of the Kafka edge. Each with what it means and what to do; seconds, bytes, bounded labels."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.errors import DeadLetterReason
from schemas.topics import ENRICHMENT_SOURCES

RESULTS = ("applied", "redelivered", "dead_lettered", "caught_up")
STAGES = ("decode", "state", "tower", "encode", "store", "produce", "acknowledge")
MAX_TOWERS = 4
"""Towers beyond this share one label value, so that labels stay bounded whatever is live."""

_BATCH_SIZES = (1, 8, 64, 256, 1024, 2048, 4096, 8192, 16384)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def tower_label(ordinal: int) -> str:
    """Label of the tower at this place of the live list; 0 is the serving one."""
    return str(min(ordinal, MAX_TOWERS - 1))


class EnrichmentTelemetry:
    """What the enrichment worker counts, on the registry that it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Events taken in. `redelivered` grows after a crash or a rebalance and is harmless; when it
        # grows steadily a worker restarts over and over: read its log.
        self.events = Counter(
            "skewless_enrichment_events_total",
            "Events by topic and result",
            ["topic", "result"],
            registry=registry,
        )
        # Dead letters. Alert on the rate: the x-dlq headers of the dead-letter topic say what is wrong.
        self.dead_letters = Counter(
            "skewless_enrichment_dead_letters_total",
            "Dead-lettered events by topic and reason",
            ["topic", "reason"],
            registry=registry,
        )
        # Rows acknowledged by the broker, by place in the live list. A place that stands still while
        # place 0 moves is a tower that gets no rows.
        self.rows = Counter(
            "skewless_enrichment_rows_total",
            "Embedded rows acknowledged, by tower place",
            ["tower"],
            registry=registry,
        )
        # Pins that a tower could not embed and another one could. Place 0, in a backfill: a Pin that is not
        # served. Place 1 and up: a candidate that lacks rows; abort its rollover if it does not stop.
        self.left_out = Counter(
            "skewless_enrichment_left_out_pins_total",
            "Pins without a row of this tower, which cannot embed them, by tower place",
            ["tower"],
            registry=registry,
        )
        # What each live tower costs: CPU seconds of its forwards and bytes of its rows (before compression,
        # backfill included). Place 1 and up are the price of a rollover; it ends when LIVE has one again.
        self.embed_cpu_seconds = Counter(
            "skewless_enrichment_embed_cpu_seconds_total",
            "CPU seconds of tower forwards, by tower place",
            ["tower"],
            registry=registry,
        )
        self.row_bytes = Counter(
            "skewless_enrichment_row_bytes_total",
            "Bytes of embedded rows given to the producer, by tower place",
            ["tower"],
            registry=registry,
        )
        # Events in one batch. Near the maximum all the time: the worker is behind, add another.
        self.batch_events = Histogram(
            "skewless_enrichment_batch_events",
            "Events per batch",
            buckets=_BATCH_SIZES,
            registry=registry,
        )
        # Where the time of a batch goes. The largest stage is what to speed up.
        self.stage_seconds = Histogram(
            "skewless_enrichment_stage_seconds",
            "Seconds per batch and stage",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._add_position(registry)
        self._make_series()

    def _add_position(self, registry: CollectorRegistry) -> None:
        """How far the worker is, in its sources and in its backfills."""
        # Messages between this worker's position and the end of its partitions. Growing: add workers.
        self.lag = Gauge(
            "skewless_enrichment_lag_events", "Messages not read yet, by topic", ["topic"], registry=registry
        )
        # Partitions that this worker owns. 0 for long: more workers than partitions, or a lost group.
        self.partitions = Gauge(
            "skewless_enrichment_partitions", "Source partitions assigned", registry=registry
        )
        # Resident memory of the process. A second live tower adds its weights; growing all the time and
        # with one tower: a leak, restart the worker and report it.
        self.rss_bytes = Gauge(
            "skewless_enrichment_rss_bytes", "Resident memory of the worker", registry=registry
        )
        # Events that were gone from the topic before the state had them: some Pins lack updates. Have
        # their producer publish them in full again.
        self.missed_events = Counter(
            "skewless_enrichment_missed_events_total",
            "Events deleted from a source topic before this state had folded them in",
            ["topic"],
            registry=registry,
        )
        self._add_recovery(registry)
        # Pins that the backfill of a new tower has embedded so far, and whether it is through. Not
        # complete and not growing: the sources take all the time; add a worker.
        self.backfilled = Counter(
            "skewless_enrichment_backfill_pins_total",
            "Pins embedded by a backfill, by tower place",
            ["tower"],
            registry=registry,
        )
        self.backfill_complete = Gauge(
            "skewless_enrichment_backfill_complete",
            "1 when every stored Pin has a row of this tower by the worker's own backfill",
            ["tower"],
            registry=registry,
        )

    def _add_recovery(self, registry: CollectorRegistry) -> None:
        """What it took to get going again."""
        # State rows read back when partitions came. Large after a lost disk, small otherwise.
        self.restored_rows = Counter(
            "skewless_enrichment_restored_rows_total",
            "State rows read from pin.features.v1",
            registry=registry,
        )
        # State rows that were gone before this store had them: only an embedded broker does that, or
        # somebody who deleted records of a compacted topic. Have producers publish in full again.
        self.missed_state_rows = Counter(
            "skewless_enrichment_missed_state_rows_total",
            "State rows evicted from pin.features.v1 before they were read",
            registry=registry,
        )
        # State rows acknowledged. Standing still while events are applied: a lost disk would cost more.
        self.flushed_rows = Counter(
            "skewless_enrichment_flushed_rows_total",
            "State rows written to pin.features.v1",
            registry=registry,
        )
        # Times that the worker closed its connections and began again. Growing: the broker is away or
        # does not take its rows, or its GPU is full; its log says which.
        self.reopened = Counter(
            "skewless_enrichment_reopened_total", "Connections closed and opened again", registry=registry
        )

    def _make_series(self) -> None:
        """Start every series at 0, so that a rate sees its first event."""
        for topic in ENRICHMENT_SOURCES:
            self.lag.labels(topic.name)
            self.missed_events.labels(topic.name)
            for result in RESULTS:
                self.events.labels(topic.name, result)
            for reason in DeadLetterReason:
                self.dead_letters.labels(topic.name, reason.value)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for counter in (self.rows, self.embed_cpu_seconds, self.row_bytes):
            counter.labels(tower_label(0))
        for place in (0, 1):
            self.left_out.labels(tower_label(place))
