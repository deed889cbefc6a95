"""Metrics of the delta segment: what is servable that no snapshot of the live release holds yet."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from .clock import seconds_since


@dataclass(frozen=True)
class DeltaFigures:
    """One refresh of the delta segment. Without a delta segment there is none of these."""

    rows: int
    """Rows of the overlay: Pins with an embedding that the release's snapshots do not hold."""
    superseded: int
    """Rows of the base that an overlay row replaces."""
    capacity_rows: int
    """Bound on `rows`; what comes above it waits for the next release."""
    lag_events: int
    """Messages of its topics that it has not folded in."""
    newest_ingest_ms: int
    """Broker time of the newest message that it has folded in; 0 for none."""
    caught_up_at_ms: int
    """When it last had everything that its topics held."""
    patched: int = 0
    """Rows of the base with newer attributes and their own embedding."""
    waiting: int = 0
    """Pins that the release does not have, without an embedding of its tower version."""
    refused: int = 0
    """Rows whose embedding found no room. Their attributes act."""
    unreadable: int = 0
    """Messages that were no rows."""
    gap_events: int = 0
    """Messages that it needs and that its topics do not hold any more."""


class DeltaTelemetry:
    """Gauges of the delta segment; all 0 on a server that has none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # Pins with an embedding newer than the release's snapshots. Grows until the next release, then falls.
        # Growing over several hours: releases are not built, or are refused.
        self._rows = Gauge("skewless_delta_rows", "Rows of the delta segment's overlay.", registry=registry)
        # Rows of the base that something newer replaces. Together with the rows above: what a request pays.
        self._superseded = Gauge(
            "skewless_delta_superseded_rows",
            "Rows of the base that the overlay replaces.",
            registry=registry,
        )
        # The bound of the overlay. Rows near it: build releases more often, or raise the bound.
        self._capacity = Gauge(
            "skewless_delta_capacity_rows", "Most rows that the overlay takes.", registry=registry
        )
        # Messages that wait to be folded in. Growing: the server's cores are taken by requests.
        self._lag_events = Gauge(
            "skewless_delta_lag_events", "Messages not folded in yet.", registry=registry
        )
        # Seconds since the delta segment last had all that its topics held. A growing figure: new Pins and
        # bids do not act; look at the server's log, then at the broker.
        self._lag = Gauge(
            "skewless_delta_lag_seconds",
            "Seconds since the delta segment was last caught up.",
            registry=registry,
        )
        # Rows of the base whose attributes (bid, budget, status, targeting) are newer, embedding as it was.
        self._patched = Gauge(
            "skewless_delta_patched_rows", "Rows of the base with newer attributes.", registry=registry
        )
        # New Pins that wait for an embedding of the served tower version. In a rollover: the candidate's are
        # ahead. Otherwise growing: the worker does not embed with the served version.
        self._waiting = Gauge(
            "skewless_delta_waiting_pins", "New Pins without a usable embedding.", registry=registry
        )
        # Embeddings that found no room under the bound: those Pins keep their older one, new Pins are not
        # servable yet. Bids, budgets and deletes act all the same. Build a release, or raise the bound.
        self._refused = Gauge(
            "skewless_delta_refused_rows", "Rows whose embedding found no room.", registry=registry
        )
        # Messages that were no rows, since the start. Above 0: somebody else writes to our topics.
        self._unreadable = Gauge(
            "skewless_delta_unreadable_messages", "Messages that were no rows.", registry=registry
        )
        # Messages that retention took before they were read. Those changes act with the next release only:
        # keep the topics longer than the time between two releases.
        self._gap = Gauge(
            "skewless_delta_gap_events", "Messages that are needed and gone.", registry=registry
        )
        self._caught_up_at_ms: int | None = None

    def show(self, figures: DeltaFigures) -> None:
        """Take over what one refresh found."""
        self._rows.set(figures.rows)
        self._superseded.set(figures.superseded)
        self._capacity.set(figures.capacity_rows)
        self._lag_events.set(figures.lag_events)
        self._patched.set(figures.patched)
        self._waiting.set(figures.waiting)
        self._refused.set(figures.refused)
        self._unreadable.set(figures.unreadable)
        self._gap.set(figures.gap_events)
        self._caught_up_at_ms = figures.caught_up_at_ms

    def age(self, now_ms: int) -> None:
        """Bring what changes by time alone up to date."""
        if self._caught_up_at_ms is not None:
            self._lag.set(seconds_since(self._caught_up_at_ms, now_ms))
