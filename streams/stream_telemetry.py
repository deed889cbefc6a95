"""Metrics of the Faust processes. Each with what it means and what to do; labels are bounded by the steps."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.errors import DeadLetterReason


class StreamTelemetry:
    """What the loops around the steps count, on the registry that they are given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Events that a step has had, by what became of them (each step has a few fixed results).
        # `redelivered` grows after a restart or a rebalance; all the time: something restarts over and over.
        self.events = Counter(
            "skewless_stream_events_total",
            "Events by step and result",
            ["step", "result"],
            registry=registry,
        )
        # Dead letters. Alert on the rate; the x-dlq headers on the dead-letter topic say what is wrong.
        self.letters = Counter(
            "skewless_stream_dead_letters_total",
            "Dead-lettered events by step and reason",
            ["step", "reason"],
            registry=registry,
        )
        # Rows that the broker has acknowledged. Standing still while events move: look at the results above.
        self.outputs = Counter(
            "skewless_stream_outputs_total", "Rows sent and acknowledged", ["step"], registry=registry
        )
        # Rows not sent because another worker owns their partition now. Harmless: that worker sends them.
        self.disowned = Counter(
            "skewless_stream_disowned_outputs_total",
            "Rows left to the new owner of their partition",
            ["step"],
            registry=registry,
        )
        # Events read from the topic a second time, because another worker had them or the disk was lost.
        # Grows at a takeover; all the time: partitions go to and fro, look for a worker that is too slow.
        self.gap_events = Counter(
            "skewless_stream_gap_events_total",
            "Events read to fill a gap in a step's state",
            ["step"],
            registry=registry,
        )
        # Events that were gone from the topic before the state had them. The counts lack them for good:
        # have them published again, or lengthen the topic's retention.
        self.missed_events = Counter(
            "skewless_stream_missed_events_total",
            "Events deleted from a topic before the step's state had them",
            ["step"],
            registry=registry,
        )
        # Sends that were tried again. Growing: the broker is away or too slow.
        self.retries = Counter(
            "skewless_stream_retries_total", "Attempts that the broker refused", ["step"], registry=registry
        )
        self._add_gauges(registry)

    def _add_gauges(self, registry: CollectorRegistry) -> None:
        # Age of the newest event of the last batch: how far behind the step is. Growing: add a process.
        self.lag_seconds = Gauge(
            "skewless_stream_lag_seconds",
            "Seconds between an event's arrival at the broker and its folding",
            ["step"],
            registry=registry,
        )
        # Messages between the group's position and the end of its topics. Growing: add a process.
        self.lag_events = Gauge(
            "skewless_stream_lag_events", "Messages not yet acknowledged", ["step"], registry=registry
        )
        # Sum of the offsets that the group has committed. Standing still with a lag: the watchdog will
        # end the process; look at its log.
        self.position = Gauge(
            "skewless_stream_position_events",
            "Messages acknowledged, over all partitions of the group",
            ["step"],
            registry=registry,
        )
        # Partitions that this process owns. 0 for long: more processes than partitions, or a lost group.
        self.partitions = Gauge(
            "skewless_stream_partitions", "Source partitions assigned", ["step"], registry=registry
        )

    def start(self, step: str) -> None:
        """Start the series of a step at 0, so that a rate sees its first event."""
        for counter in (
            self.outputs, self.disowned, self.gap_events, self.missed_events, self.retries
        ):  # fmt: skip
            counter.labels(step)
        for gauge in (self.lag_seconds, self.lag_events, self.position, self.partitions):
            gauge.labels(step)
        for reason in DeadLetterReason:
            self.letters.labels(step, reason.value)
