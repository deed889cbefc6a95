"""Which Pins a worker embeds at every change, and how many of them belong to which tier."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from features.tier_slices import in_tier
from schemas.tiers import Tiers, single_tier

from .sources import Ints


class EmbeddedTiers:
    """The realtime tiers of an installation. Pins of batch tiers get state and no rows."""

    def __init__(self, tiers: Tiers) -> None:
        self._realtime = [tier for tier in tiers.tiers if tier.policy == "realtime"]
        self._all = len(self._realtime) == len(tiers.tiers)

    def chosen(self, pin_ids: Ints) -> npt.NDArray[np.intp] | None:
        """Places of the Pins to embed; None for every one of them, which costs nothing to find out."""
        if self._all:
            return None
        inside = np.zeros(len(pin_ids), np.bool_)
        for tier in self._realtime:
            inside |= in_tier(pin_ids, tier)
        return np.flatnonzero(inside)

    def counts(self, pin_ids: Ints) -> Mapping[str, int]:
        """Tier -> how many of these Pins are its own; tiers that are not embedded here are left out."""
        if self._all and len(self._realtime) == 1:
            return {self._realtime[0].name: len(pin_ids)}
        return {tier.name: int(np.count_nonzero(in_tier(pin_ids, tier))) for tier in self._realtime}


EVERY_PIN = EmbeddedTiers(single_tier("realtime"))
"""One realtime tier, as where nothing is declared."""
