"""The rules of attribution and of the skew monitor, out of the settings."""

from dataclasses import replace

from streams.attribution import AttributionRules
from streams.attribution_windows import AttributionWindows
from streams.skew_alerts import SkewRules, default_rules

from .settings import Settings


def attribution_rules(settings: Settings) -> AttributionRules:
    """Windows and how time passes."""
    windows = AttributionWindows(
        visit_ms=settings.attribution_visit_seconds * 1000,
        click_ms=settings.attribution_click_seconds * 1000,
        save_ms=settings.attribution_save_seconds * 1000,
        purchase_ms=settings.attribution_purchase_seconds * 1000,
        redemption_ms=settings.attribution_redemption_seconds * 1000,
    )
    return AttributionRules(
        windows,
        lateness_ms=round(settings.attribution_lateness_seconds * 1000),
        idle_ms=round(settings.attribution_idle_seconds * 1000),
    )


def skew_rules(settings: Settings) -> SkewRules:
    """Window, grace, thresholds. An alert is cleared well below the share that raised it."""
    raise_ms, clear_ms = round(settings.skew_raise_seconds * 1000), round(settings.skew_clear_seconds * 1000)
    rules = default_rules()
    stream, query = settings.skew_stream_share, settings.skew_query_share
    return SkewRules(
        window_ms=round(settings.skew_window_seconds * 1000),
        grace_ms=round(settings.skew_grace_seconds * 1000),
        default_tier=settings.tier,
        alerts={
            "mixed_responses": replace(rules["mixed_responses"], clear_after_ms=clear_ms),
            "stream_not_aligned": replace(
                rules["stream_not_aligned"],
                threshold=stream,
                clear_share=stream / 5,
                raise_after_ms=raise_ms,
                clear_after_ms=clear_ms,
            ),
            "query_not_released": replace(
                rules["query_not_released"],
                threshold=query,
                clear_share=query / 5,
                raise_after_ms=raise_ms,
                clear_after_ms=clear_ms,
            ),
        },
    )
