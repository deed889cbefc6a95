"""The one table of Kafka topics: what is on them, how they are keyed, kept and cut up."""

from dataclasses import dataclass

from pydantic import BaseModel

from .embeddings import PinEmbedded
from .events import EngagementObserved, PinAggregated, PinChanged, VisitObserved
from .impressions import ImpressionAttributed, ImpressionServed
from .logs import RankingLog, ReleasePublished
from .skew import EmbeddingsCounted, SkewAlerted
from .states import PinFeatures, StateCheckpointed
from .times import DAY_MS

DLQ_SUFFIX = ".dlq"
DLQ_PARTITIONS = 1
"""Letters of a topic stay in the order in which they failed, and a batch's letters are one request to the
broker: over 32 partitions, 1 % of bad events cost the broker a quarter more work. Any number works.
"""


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
PIN_FEATURES = Topic(
    "pin.features.v1", PinFeatures, "pin_id", 32, True, 7 * DAY_MS, "merged state of Pins, for restores"
)
STATE_CHECKPOINTED = Topic(
    "state.checkpointed.v1",
    StateCheckpointed,
    "state_topic:partition",
    32,
    True,
    7 * DAY_MS,
    "what the rows of a state topic cover",
)
WINDOW_SOURCE_RETENTION_MS = 92 * DAY_MS
"""The longest window is 90 days and ends at a day's start; one day more for what comes late."""

VISIT_OBSERVED = Topic(
    "visit.observed.v1",
    VisitObserved,
    "pin_id",
    32,
    False,
    WINDOW_SOURCE_RETENTION_MS,
    "offsite conversion visits",
)
ENGAGEMENT_OBSERVED = Topic(
    "engagement.observed.v1",
    EngagementObserved,
    "pin_id",
    32,
    False,
    WINDOW_SOURCE_RETENTION_MS,
    "purchases, redemptions, clicks, saves",
)
RANKING_LOGGED = Topic(
    "ranking.logged.v1", RankingLog, "request_id", 8, False, 7 * DAY_MS, "answered queries"
)
RELEASE_PUBLISHED = Topic(
    "release.published.v1", ReleasePublished, "release_id", 1, True, 30 * DAY_MS, "moves of CURRENT"
)
IMPRESSION_SERVED = Topic(
    "impression.served.v1",
    ImpressionServed,
    "pin_id",
    32,
    False,
    WINDOW_SOURCE_RETENTION_MS,
    "served ads, one row each, beside the events of their Pins",
)
IMPRESSION_ATTRIBUTED = Topic(
    "impression.attributed.v1",
    ImpressionAttributed,
    "request_id:pin_id",
    32,
    False,
    WINDOW_SOURCE_RETENTION_MS,
    "training rows: served ads with what came of them",
)
EMBEDDINGS_COUNTED = Topic(
    "embeddings.counted.v1",
    EmbeddingsCounted,
    "worker",
    1,
    False,
    7 * DAY_MS,
    "rows that workers embedded, by tower version",
)
SKEW_ALERTED = Topic(
    "skew.alerted.v1", SkewAlerted, "tier:kind", 1, True, 30 * DAY_MS, "skew alerts, raised and cleared"
)

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        PIN_CHANGED,
        VISIT_OBSERVED,
        ENGAGEMENT_OBSERVED,
        PIN_AGGREGATED,
        PIN_FEATURES,
        STATE_CHECKPOINTED,
        PIN_EMBEDDED,
        EMBEDDINGS_COUNTED,
        RELEASE_PUBLISHED,
        RANKING_LOGGED,
        IMPRESSION_SERVED,
        IMPRESSION_ATTRIBUTED,
        SKEW_ALERTED,
    )
}

ENRICHMENT_SOURCES: tuple[Topic, ...] = (PIN_CHANGED, PIN_AGGREGATED)
"""What the enrichment worker folds into a Pin's state. Equal partition counts keep a Pin on one worker."""

WINDOW_SOURCES: tuple[Topic, ...] = (VISIT_OBSERVED, ENGAGEMENT_OBSERVED)
"""What the day windows count."""

DEAD_LETTERED: tuple[Topic, ...] = (
    *ENRICHMENT_SOURCES,
    PIN_FEATURES,
    PIN_EMBEDDED,
    *WINDOW_SOURCES,
    RANKING_LOGGED,
    IMPRESSION_SERVED,
    RELEASE_PUBLISHED,
    EMBEDDINGS_COUNTED,
)
"""Topics that a process of ours reads, and so may have to dead-letter from."""

BROKER_TIMED = (
    PIN_CHANGED,
    PIN_AGGREGATED,
    VISIT_OBSERVED,
    ENGAGEMENT_OBSERVED,
    IMPRESSION_SERVED,
    RANKING_LOGGED,
    EMBEDDINGS_COUNTED,
)
"""Where an event's own time is held against the time of its message, which has to be the broker's."""
