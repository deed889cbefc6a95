"""The one table of Kafka topics: what is on them, how they are keyed, kept and cut up."""

from dataclasses import dataclass

from pydantic import BaseModel

from .embeddings import PinEmbedded
from .events import EngagementObserved, PinAggregated, PinChanged
from .logs import RankingLog, ReleasePublished

DLQ_SUFFIX = ".dlq"
DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True)
class Topic:
    """A topic as we need it. `partitions` is also the number of shards of state and of snapshot."""

    name: str
    value: type[BaseModel]
    key: str
    partitions: int
    compacted: bool
    retention_ms: int
    doc: str

    @property
    def dlq(self) -> str:
        """Where this topic's dead letters go."""
        return self.name + DLQ_SUFFIX


PIN_CHANGED = Topic("pin.changed.v1", PinChanged, "pin_id", 32, False, 7 * DAY_MS, "partial updates of Pins")
PIN_AGGREGATED = Topic(
    "pin.aggregated.v1", PinAggregated, "pin_id", 32, False, 7 * DAY_MS, "windowed aggregates of Pins"
)
PIN_EMBEDDED = Topic(
    "pin.embedded.v1",
    PinEmbedded,
    "pin_id:tower_version",
    32,
    True,
    7 * DAY_MS,
    "embedded Pins, one row per live tower",
)
ENGAGEMENT_OBSERVED = Topic(
    "engagement.observed.v1",
    EngagementObserved,
    "pin_id",
    32,
    False,
    90 * DAY_MS,
    "purchases, redemptions, clicks",
)
RANKING_LOGGED = Topic(
    "ranking.logged.v1", RankingLog, "request_id", 8, False, 7 * DAY_MS, "answered queries"
)
RELEASE_PUBLISHED = Topic(
    "release.published.v1", ReleasePublished, "release_id", 1, True, 30 * DAY_MS, "moves of CURRENT"
)

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        PIN_CHANGED,
        PIN_AGGREGATED,
        PIN_EMBEDDED,
        ENGAGEMENT_OBSERVED,
        RANKING_LOGGED,
        RELEASE_PUBLISHED,
    )
}

ENRICHMENT_SOURCES: tuple[Topic, ...] = (PIN_CHANGED, PIN_AGGREGATED)
"""What the enrichment worker folds into a Pin's state. Equal partition counts keep a Pin on one worker."""

DEAD_LETTERED: tuple[Topic, ...] = (*ENRICHMENT_SOURCES, PIN_EMBEDDED)
"""Topics that a process of ours reads, and so may have to dead-letter from."""
