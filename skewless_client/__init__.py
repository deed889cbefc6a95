"""What other services import: publish Pin changes (`PinProducer`), ask for ranked ads (`RankClient`)."""

from schemas.errors import InvalidMessage, Refused
from schemas.events import PinAggregated, PinChanged
from schemas.ranking import RankedAd, RankRequest, RankResponse

from .producer import DeliveryCounts, NotDelivered, PinProducer, ProducerSettings, exit_on_sigterm
from .rank import RankClient, RankError

__all__ = [
    "DeliveryCounts",
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
    "exit_on_sigterm",
]
