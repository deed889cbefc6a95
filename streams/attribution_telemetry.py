"""Every metric of attribution. Each with what it means and what to do."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class AttributionTelemetry:
    """What `AttributionStep` counts, on the registry that it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Rows written, one per impression. `no` alone moving: conversions do not arrive, or under other
        # user ids than the impressions'.
        self.rows = Counter(
            "skewless_attribution_rows_total",
            "Impressions whose window is over",
            ["converted"],
            registry=registry,
        )
        # Lowest event time over this worker's partitions, seconds since 1970. Standing still: a topic
        # brings nothing and is not yet passed over as idle, or the worker is behind.
        self.watermark = Gauge(
            "skewless_attribution_watermark_seconds",
            "Event time reached, lowest partition",
            registry=registry,
        )
        # Entries in the state, about two for each open impression and each recent conversion. Growing
        # without end: windows do not close; look at the watermark.
        self.state_keys = Gauge(
            "skewless_attribution_state_keys", "Keys in the state, as RocksDB estimates", registry=registry
        )
        for converted in ("yes", "no"):
            self.rows.labels(converted)
