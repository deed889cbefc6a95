"""Which conversion an impression is credited with: the windows, and the rule, without state or Kafka.

**Last touch.** A conversion belongs to the latest impression of the same user and Pin that was served at
or before it, if it happened within that impression's window for its kind; to no other impression, and
to none at all when that window is over. An impression's row names the first of its conversions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, cast

from schemas.impressions import ConversionKind

DAY_MS = 24 * 60 * 60 * 1000

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


class Served(NamedTuple):
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
    served: Sequence[Served], place: int, conversions: Iterable[Conversion], windows: AttributionWindows
) -> Conversion | None:
    """The conversion that `served[place]` is credited with.

    `served`: every impression of the user and Pin from that one on, ascending; of two at the same moment
    the later in order has the touch.
    """
    start_ms = served[place].served_at_ms
    end_ms = served[place + 1].served_at_ms if place + 1 < len(served) else None
    own = (
        one
        for one in conversions
        if one.occurred_at_ms >= start_ms
        and (end_ms is None or one.occurred_at_ms < end_ms)
        and one.occurred_at_ms <= start_ms + windows.of(KINDS[one.kind])
    )
    return min(own, default=None)


def distinct(served: Iterable[Served], window_ms: int) -> tuple[list[Served], list[Served]]:
    """Impressions in order, and the repeats among them: the same request again within a window.

    A client that sends a request again under its id gets another answer, and one impression.
    """
    kept: list[Served] = []
    repeats: list[Served] = []
    first: dict[bytes, int] = {}
    for one in sorted(served):
        begun = first.get(one.request_id)
        if begun is not None and one.served_at_ms <= begun + window_ms:
            repeats.append(one)
            continue
        first[one.request_id] = one.served_at_ms
        kept.append(one)
    return kept, repeats
