"""Attribution over a set of events in plain Python, with no state and no time."""

from collections.abc import Iterable

from schemas.events import EngagementObserved, VisitObserved
from schemas.impressions import ConversionKind, ImpressionServed
from streams.attribution_windows import AttributionWindows

Told = tuple[ConversionKind, int, int] | None
"""Kind, time and value of the credited conversion."""

STRENGTH: dict[str, int] = {"purchase": 0, "redemption": 1, "save": 2, "click": 3, "visit": 4}


def attributed(
    impressions: Iterable[ImpressionServed],
    conversions: Iterable[VisitObserved | EngagementObserved],
    windows: AttributionWindows,
) -> dict[tuple[str, int], Told]:
    """(request, Pin) → what its impression is credited with."""
    ordered = sorted(impressions, key=lambda one: (one.served_at_ms, one.request_id))
    credits: dict[tuple[str, int], list[tuple[int, int, int]]] = {
        (one.request_id, one.pin_id): [] for one in ordered
    }
    for conversion in conversions:
        touching = [
            one
            for one in ordered
            if (one.pin_id, one.user_id) == (conversion.pin_id, conversion.user_id)
            and one.user_id is not None
            and one.served_at_ms <= conversion.occurred_at_ms
        ]
        kind: ConversionKind = "visit" if isinstance(conversion, VisitObserved) else conversion.kind
        if touching and conversion.occurred_at_ms <= touching[-1].served_at_ms + windows.of(kind):
            value = 0 if isinstance(conversion, VisitObserved) else conversion.value_micros
            place = (conversion.occurred_at_ms, STRENGTH[kind], -value)
            credits[touching[-1].request_id, touching[-1].pin_id].append(place)
    kinds: dict[int, ConversionKind] = {number: kind for kind, number in STRENGTH.items()}  # type: ignore[misc]
    return {
        name: (kinds[best[1]], best[0], -best[2]) if (best := min(found, default=None)) else None
        for name, found in credits.items()
    }
