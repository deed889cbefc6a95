"""What a root says about its leaves."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from .parts import ServingParts


class Shards(BaseModel):
    """Each leaf as it was last seen. Without leaves this server holds every Pin itself."""

    model_config = ConfigDict(frozen=True)

    sharded: bool
    current: str | None
    waiting_for: list[str]
    """Leaves that have to load `current` before it is served."""
    leaves: list[dict[str, Any]]


def shard_routes(parts: ServingParts) -> APIRouter:
    """One route."""
    router = APIRouter(prefix="/v1", tags=["operations"])

    @router.get("/shards")
    def shards() -> Shards:
        """The leaves of a root: address, shard, up or not and why, releases held; what a swap waits for."""
        current, leaves = parts.current(), parts.config.leaves
        if leaves is None:
            return Shards(sharded=False, current=current, waiting_for=[], leaves=[])
        live = parts.live()
        served = live is not None and live.release_id == current
        waiting = [] if current is None or served else leaves.blocking(current)
        return Shards(sharded=True, current=current, waiting_for=waiting, leaves=leaves.status())

    return router
