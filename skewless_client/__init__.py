"""What other services import: publish Pin changes (`PinProducer`), ask for ranked ads (`RankClient`)."""

from schemas.errors import InvalidMessage, Refused
from schemas.events import EngagementObserved, PinAggregated, PinChanged, VisitObserved
from schemas.ranking import RankedAd, RankRequest, RankResponse

from .producer import DeliveryCounts, NotDelivered, PinProducer, ProducerSettings, exit_on_sigterm
from .rank import RankClient, RankError

__all__ = [
    "DeliveryCounts",
    "EngagementObserved",
    "InvalidMessage",
    "NotDelivered",
    "PinAggregated",
    "PinChanged",
    "PinProducer",
    "ProducerSettings",
    "RankClient",
    "RankError",
    "RankRequest",
    "RankResponse",
    "RankedAd",
    "Refused",
    "VisitObserved",
    "exit_on_sigterm",
]
