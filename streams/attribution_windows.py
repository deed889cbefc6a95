"""Which conversion an impression is credited with: the windows, and the rule, without state or Kafka.

**Last touch.** A conversion belongs to the latest impression of the same user and Pin that was served at
or before it, if it happened within that impression's window for its kind; to no other impression, and
to none at all when that window is over. An impression's row names the first of its conversions.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, cast

from schemas.impressions import ConversionKind
from schemas.times import DAY_MS

KINDS: tuple[ConversionKind, ...] = ("purchase", "redemption", "save", "click", "visit")
"""Strongest first: of two conversions at the same moment the stronger stands."""


@dataclass(frozen=True)
class AttributionWindows:
    """How long after an impression a conversion of each kind may still be credited to it.

    A click, a save or a visit follows an ad within a day or not at all; a purchase or the redemption of
    a coupon takes a week. Every row waits for the longest of them, so a longer one makes training data
    older. Raises ValueError for a window that is not positive.
    """

    visit_ms: int = DAY_MS
    click_ms: int = DAY_MS
    save_ms: int = DAY_MS
    purchase_ms: int = 7 * DAY_MS
    redemption_ms: int = 7 * DAY_MS

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise ValueError(f"windows are longer than nothing: {self}")

    @property
    def longest_ms(self) -> int:
        """When an impression's row is due, counted from the impression."""
        return max(self.of(kind) for kind in KINDS)

    def of(self, kind: ConversionKind) -> int:
        """The window of a kind."""
        return cast(int, getattr(self, f"{kind}_ms"))

    def text(self) -> str:
        """The windows as one word, to tell states made with other windows apart."""
        return "_".join(f"{one.name}{getattr(self, one.name)}" for one in fields(self))


class ServedAt(NamedTuple):
    """When an impression of one (user, Pin) was served, and in which answer. Sorts by time."""

    served_at_ms: int
    request_id: bytes


class Conversion(NamedTuple):
    """A conversion of one (user, Pin). Sorts by time, then the stronger and the dearer first."""

    occurred_at_ms: int
    kind: int
    """Place in KINDS."""
    minus_value_micros: int


def credited(
    served_at_ms: int, conversions: Iterable[Conversion], windows: AttributionWindows
) -> Conversion | None:
    """The conversion that an impression is credited with.

    `conversions`: of its user and Pin, from the impression on and before the next one of them; of two
    impressions at the same moment the later in order has the touch.
    """
    within = (one for one in conversions if one.occurred_at_ms <= served_at_ms + windows.of(KINDS[one.kind]))
    return min(within, default=None)
