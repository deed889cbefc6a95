"""What the demo acts on: the data set as events, users and queries; and the running server's answers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import numpy as np
import orjson
import polars as pl
from rich.progress import Progress

from datasets.complete_journey import Journey, WeekEvents
from datasets.training_rows import pin_categories, sessions, users_before
from datasets.weeks import LAST_WEEK
from features.store import RocksStore
from features.user_state import USER_RECORD
from schemas.errors import RetryableError
from schemas.ranking import RankRequest, RankResponse
from schemas.topics import PIN_AGGREGATED, PIN_CHANGED, PIN_EMBEDDED
from skewless_client import RankClient, RankError
from streams.replay import Pace, Timing, replay
from streams.replay import Progress as ReplayProgress
from streams.replay_sink import GroupLag, KafkaSink

from .demo_children import Children
from .kafka_connection import kafka_settings
from .settings import Settings
from .store_connection import release_store

_QUERIES = 2_000
_STEP_SECONDS = 300.0
_MAX_LAG = 50_000
_ROWS_UNCUT = 150_000
"""Rows that no snapshot covers yet may be this many before the replay waits for them too: about 80 MB of
the 160 MB that the embedded broker keeps of a topic. They are only committed at a cut."""


@dataclass(frozen=True)
class Replayed:
    """What was sent after the catalogue, and how long it took until the worker had all of it."""

    placement_changes: int
    coupon_changes: int
    aggregates: int
    prices: int
    catalogue: int
    seconds: float

    @property
    def events(self) -> int:
        """All of them, the catalogue included."""
        return self.placement_changes + self.coupon_changes + self.aggregates + self.prices + self.catalogue


class DemoWorld:
    """The Complete Journey and the server that the demo has started."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.journey = Journey.installed()
        self.metrics_before = ""
        """The server's, when it served the whole catalogue."""
        self._counts = {"display_stores": 0, "coupons": 0, "price_micros": 0, "title": 0, "offsite_visits": 0}

    @cached_property
    def _events(self) -> Iterator[WeekEvents]:
        return self.journey.journey_events()

    def write_users(self, before_week: int) -> None:
        """Put every household as it was at the start of a week into the online store."""
        users = self.journey.users()
        visits = sessions(self.journey.engagements(), users["user_id"], before_week - 1)
        nobody = np.empty(0, np.intp)
        users_before(users, visits, pin_categories(self.journey.products), nobody)
        with RocksStore(self.settings.users_dir, USER_RECORD) as store:
            store.put_many(users["user_id"], users, [b""] * len(users))

    def queries(self, first_week: int) -> list[RankRequest]:
        """Real baskets from a week on, each as the query that its household could have sent."""
        baskets = (
            self.journey.engagements()
            .filter(pl.col("week") >= first_week)
            .unique("basket_id", keep="first", maintain_order=True)
            .head(_QUERIES)
        )
        rows = baskets.select("user_id", "occurred_at_ms").iter_rows()
        return [RankRequest(user_id=user, occurred_at_ms=at_ms, slots=10) for user, at_ms in rows]

    def replay_catalogue(self, bars: Progress) -> None:
        """Send the first week's events: the catalogue and what is so at the year's start."""
        self._send([next(self._events)], bars, "send the catalogue", 0)

    def replay_year(self, bars: Progress, children: Children) -> Replayed:
        """Send the other weeks, paced by the consumers, and wait until the worker has them."""
        started = time.monotonic()
        self._send(self._events, bars, "replay the year", LAST_WEEK - 1)
        children.wait_until("reading the last events", lambda: self._source_lag() == 0, _STEP_SECONDS)
        counts = self._counts
        return Replayed(
            placement_changes=counts["display_stores"],
            coupon_changes=counts["coupons"],
            aggregates=counts["offsite_visits"],
            prices=counts["price_micros"],
            catalogue=counts["title"],
            seconds=time.monotonic() - started,
        )

    @cached_property
    def _kafka(self) -> Any:
        return kafka_settings(self.settings)

    @cached_property
    def _source_lag(self) -> GroupLag:
        """Events that the worker has not done."""
        return GroupLag(self._kafka, self._kafka.enrichment_group, [PIN_CHANGED.name, PIN_AGGREGATED.name])

    @cached_property
    def _row_lag(self) -> GroupLag:
        """Embedded rows that no snapshot covers."""
        return GroupLag(self._kafka, self._kafka.cutter_group, [PIN_EMBEDDED.name])

    def close(self) -> None:
        """Close the connections that watch the consumers."""
        self._source_lag.close()
        self._row_lag.close()

    def _send(
        self, weeks: "Iterator[WeekEvents] | list[WeekEvents]", bars: Progress, what: str, total: int
    ) -> None:
        task = bars.add_task(what, total=total or None, note="")

        def frames() -> Iterator[tuple[str, pl.DataFrame]]:
            for week in weeks:
                self._count(week)
                yield PIN_CHANGED.name, week.changed
                yield PIN_AGGREGATED.name, week.aggregated
                bars.advance(task)

        def show(done: ReplayProgress) -> None:
            bars.update(task, note=f"{done.events:,} events, {done.events_per_second:,.0f}/s")

        def uncut() -> int:
            return max(self._row_lag() - _ROWS_UNCUT, 0)

        sink = KafkaSink(self._kafka, [self._source_lag, uncut] if total else [])
        replay(
            frames(), sink, None, Timing(time.monotonic, time.sleep), pace=Pace(_MAX_LAG), on_progress=show
        )
        if not total:
            bars.update(task, total=1, completed=1)

    def _count(self, week: WeekEvents) -> None:
        """Real changes, by what they change; an event may change several things."""
        for name in self._counts:
            frame = week.aggregated if name == "offsite_visits" else week.changed
            self._counts[name] += frame.height - frame[name].null_count()

    def first_answer(self, url: str, children: Children) -> RankResponse:
        """The first response with an ad in it."""
        request, answers = self.queries(27)[0], []

        def answered() -> bool:
            try:
                with RankClient(url, timeout_seconds=5, retry_budget_seconds=0) as client:
                    response = client.rank(request)
            except RankError:
                return False
            answers.append(response)
            return bool(response.ads)

        children.wait_until("the first ranked ad", answered, _STEP_SECONDS)
        return answers[-1]

    def wait_for_catalogue(self, url: str, children: Children) -> None:
        """Return when the served release holds all of the catalogue, and keep the metrics of that moment.

        It was sent while there was no tower yet, so how old its Pins were by then says nothing about the
        stream: freshness is counted from here on.
        """
        children.wait_until("embedding the catalogue", lambda: self._source_lag() == 0, _STEP_SECONDS)
        self.wait_until_servable(url, children)
        self.metrics_before = self.metrics(url)

    def training(self, name: str) -> dict[str, Any] | None:
        """What a finished training run wrote, or None."""
        try:
            found: dict[str, Any] = orjson.loads(self.settings.status_file(f"tower-{name}").read_bytes())
        except FileNotFoundError:
            return None
        return found

    def wait_for_tower(self, name: str, url: str, children: Children, bars: Progress) -> None:
        """Return when the server answers with that tower's release."""
        task = bars.add_task(f"train tower {name}, backfill, swap", total=1, note="")
        children.wait_until(f"training tower {name}", lambda: self.training(name) is not None, _STEP_SECONDS)
        version = (self.training(name) or {})["tower_version"]
        bars.update(task, note="backfill and release")

        def serving() -> bool:
            live = self.status(url)["live"]
            return live is not None and live["query_tower_version"] == version

        children.wait_until(f"tower {name} going live", serving, _STEP_SECONDS)
        bars.update(task, completed=1, note="live")

    def wait_until_servable(self, url: str, children: Children) -> None:
        """Return when the served release holds the last event that was sent."""
        store = release_store(self.settings)

        def served() -> bool:
            live = self.status(url)["live"]
            return bool(live) and live["release_id"] == store.current() and self._row_lag() == 0

        children.wait_until("the last release", served, _STEP_SECONDS)

    def status(self, url: str) -> dict[str, Any]:
        """The server's own account of itself. Raises RetryableError when it does not answer."""
        try:
            found: dict[str, Any] = httpx.get(f"{url}/v1/status", timeout=10).raise_for_status().json()
        except httpx.HTTPError as error:
            raise RetryableError(f"{url} does not answer: {error}") from error
        return found

    def metrics(self, url: str) -> str:
        """The server's Prometheus metrics."""
        return httpx.get(f"{url}/metrics", timeout=10).raise_for_status().text
