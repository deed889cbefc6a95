"""The rules that servers and leaves share, out of the settings."""

from serving.delta_reader import DeltaPolicy

from .settings import Settings

_DISK_POLL_SECONDS = 0.2


def delta_policy(settings: Settings) -> DeltaPolicy:
    """How the delta segment is read and held."""
    return DeltaPolicy(
        refresh_seconds=settings.delta_refresh_seconds,
        catch_up_seconds=settings.delta_catch_up_seconds,
        max_vectors=settings.delta_max_vectors,
    )


def live_poll_seconds(settings: Settings) -> float:
    """How often to ask which release is live: this machine's disk is asked more often than a store."""
    return settings.store_poll_seconds if settings.store_url else _DISK_POLL_SECONDS
