"""Ranking logs → impressions: each served ad as an event of its Pin, beside the Pin's visits."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from schemas.codec import encode
from schemas.errors import DeadLetterReason
from schemas.impressions import ImpressionServed
from schemas.logs import LoggedAd, RankingLog
from schemas.topics import IMPRESSION_SERVED, RANKING_LOGGED

from .positions import Partition
from .step_events import event_or_letter
from .step_store import Changes, StepStore, advance
from .steps import Output, RawEvent, StepResult, TurnedDown

ImpressionTime = Literal["served", "queried"]
"""Which of a log's times is the impression's: the server's clock, or the query's own time.

They are the same but in a replay of old data, where conversions happen in the data's time.
"""


def request_key(message: Any) -> bytes:
    """Key of ranking.logged.v1."""
    return str(message.request_id).encode()


def impressions_of(log: RankingLog, time: ImpressionTime = "served") -> list[ImpressionServed]:
    """One impression per ad, in the answer's order."""
    at_ms = log.served_at_ms if time == "served" else log.occurred_at_ms
    return [_impression(log, position, ad, at_ms) for position, ad in enumerate(log.ads)]


def _impression(log: RankingLog, position: int, ad: LoggedAd, served_at_ms: int) -> ImpressionServed:
    return ImpressionServed(
        request_id=log.request_id,
        pin_id=ad.pin_id,
        position=position,
        user_id=log.user_id,
        served_at_ms=served_at_ms,
        queried_at_ms=log.occurred_at_ms,
        release_id=log.release_id,
        snapshot_id=log.snapshot_id,
        registry_hash=log.registry_hash,
        query_tower_version=log.query_tower_version,
        pin_tower_version=ad.tower_version,
        query_vector=log.query_vector,
        advertiser_id=ad.advertiser_id,
        dot=ad.dot,
        pctr=ad.pctr,
        bid_micros=ad.bid_micros,
        price_micros=ad.price_micros,
        pin_price_micros=ad.pin_price_micros,
        pin_daily_budget_micros=ad.pin_daily_budget_micros,
        pin_target_ages=ad.pin_target_ages,
        pin_input_mask=ad.pin_input_mask,
        pin_updated_at_ms=ad.pin_updated_at_ms,
    )


class ImpressionsStep:
    """ranking.logged.v1 → impression.served.v1. Keeps nothing but its positions.

    A log that is delivered again gives the same impressions again.
    """

    name = "impressions"
    topics = (RANKING_LOGGED.name,)

    def __init__(self, path: Path, time: ImpressionTime = "served") -> None:
        """`path`: directory of its positions."""
        self._store = StepStore(path, "impressions/1")
        self._time: ImpressionTime = time

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """See `Step`."""
        return self._store.positions(partitions)

    def owned(self, partitions: Iterable[Partition], behind: Iterable[Partition] = ()) -> None:
        """See `Step`: nothing here is of one partition more than of another."""

    def apply(self, events: Sequence[RawEvent]) -> StepResult:
        """See `Step`."""
        outputs: list[Output] = []
        letters: list[TurnedDown] = []
        offsets: dict[Partition, list[int]] = {}
        for event in events:
            offsets.setdefault((event.topic, event.partition), []).append(event.offset)
            shown = self._impressions(event)
            if isinstance(shown, TurnedDown):
                letters.append(shown)
            else:
                outputs += [_output(one) for one in shown]
        self._store.write(Changes(positions=advance(self._store, offsets)))
        return StepResult(outputs, letters)

    def _impressions(self, event: RawEvent) -> list[ImpressionServed] | TurnedDown:
        log: Any = event_or_letter(event, RANKING_LOGGED, request_key)
        if isinstance(log, TurnedDown):
            return log
        try:
            return impressions_of(log, self._time)
        except ValidationError as error:
            # A log may say NaN, an impression may not.
            place = ".".join(map(str, error.errors()[0]["loc"]))
            came = f"no impression can be made of it: {place}: {error.errors()[0]['msg']}"
            return TurnedDown(event, DeadLetterReason.SCHEMA_INVALID, came)

    def tick(self, now_ms: int) -> StepResult:
        """See `Step`: nothing here depends on time."""
        return StepResult()

    def close(self) -> None:
        """See `Step`."""
        self._store.close()


def _output(impression: ImpressionServed) -> Output:
    return Output(IMPRESSION_SERVED.name, b"%d" % impression.pin_id, encode(impression))
