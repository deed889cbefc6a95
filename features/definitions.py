"""The features. CONTRIBUTING.md says what else a new one needs."""

from functools import cache

from schemas.events import COUPON_CAMPAIGN_TYPES, DISPLAY_LOCATIONS, MAILER_LOCATIONS, VISIT_WINDOWS_DAYS
from schemas.states import TITLE_TOKENS
from schemas.vectors import CONTENT_DIMENSION

from . import transforms as t
from .registry import Entity, FeatureRegistry, FeatureSpec, Path, Transform
from .user_state import HISTORY, SEGMENTS

_L1 = frozenset({Path.TRAINING, Path.L1_EMBEDDING})


class _Family:
    """Declares the features of one entity and owner without repeating what they share."""

    def __init__(self, entity: Entity, owner: str) -> None:
        self.entity, self.owner = entity, owner

    def ids(
        self, transform: Transform, source: tuple[str, ...], buckets: int, shape: tuple[int, ...] = ()
    ) -> FeatureSpec:
        """A categorical feature: ids 0 (missing) to buckets - 1."""
        return FeatureSpec(
            name=transform.__name__,
            entity=self.entity,
            transform=transform,
            dtype="int64",
            shape=shape,
            owner=self.owner,
            doc=(transform.__doc__ or "").strip(),
            paths=_L1,
            source=source,
            buckets=buckets,
        )

    def numbers(self, transform: Transform, source: tuple[str, ...], size: int) -> FeatureSpec:
        """A dense feature of `size` numbers (1 gives a plain number)."""
        return FeatureSpec(
            name=transform.__name__,
            entity=self.entity,
            transform=transform,
            dtype="float32",
            shape=() if size == 1 else (size,),
            owner=self.owner,
            doc=(transform.__doc__ or "").strip(),
            paths=_L1,
            source=source,
        )


@cache
def registry() -> FeatureRegistry:
    """The registry of this version of the code."""
    catalogue = _Family(Entity.PIN, "catalogue")
    merchandising = _Family(Entity.PIN, "merchandising")
    ads = _Family(Entity.PIN, "ads-platform")
    users = _Family(Entity.USER, "user-understanding")
    context = _Family(Entity.CONTEXT, "ads-serving")
    l1, l2, l3 = t.CATEGORY_BUCKETS
    return FeatureRegistry(
        [
            catalogue.ids(t.pin_id, ("pin_id",), t.PIN_BUCKETS),
            catalogue.ids(t.title_tokens, ("title_tokens",), t.TOKEN_BUCKETS, (TITLE_TOKENS,)),
            catalogue.ids(t.category_l1, ("category_l1",), l1),
            catalogue.ids(t.category_l2, ("category_l2",), l2),
            catalogue.ids(t.category_l3, ("category_l3",), l3),
            catalogue.ids(t.brand, ("brand",), t.BRAND_BUCKETS),
            catalogue.ids(t.advertiser, ("advertiser_id",), t.ADVERTISER_BUCKETS),
            catalogue.numbers(t.content, ("content_embedding",), CONTENT_DIMENSION),
            merchandising.numbers(t.price, ("price_micros",), 1),
            merchandising.numbers(t.display_share, ("display_stores",), DISPLAY_LOCATIONS),
            merchandising.numbers(t.mailer_share, ("mailer_stores",), MAILER_LOCATIONS),
            merchandising.numbers(t.coupon_count, ("coupons",), COUPON_CAMPAIGN_TYPES),
            ads.numbers(
                t.targeting_flags, ("interest_targeting", "search_term_targeting", "auto_targeting"), 3
            ),
            ads.numbers(t.offsite_visits, ("offsite_visits",), len(VISIT_WINDOWS_DAYS)),
            users.ids(t.history_pins, ("history_pins",), t.PIN_BUCKETS, (HISTORY,)),
            users.ids(t.history_categories, ("history_categories",), l3, (HISTORY,)),
            users.numbers(t.history_weights, ("history_scores",), HISTORY),
            users.ids(t.demographics, ("segments",), t.SEGMENT_BUCKETS, (len(SEGMENTS),)),
            context.ids(t.hour_of_week, ("occurred_at_ms",), 169),
            context.numbers(t.days_since_engagement, ("occurred_at_ms", "last_engaged_at_ms"), 1),
        ]
    )
