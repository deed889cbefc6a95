"""Bugs put into worker, store and readers on purpose: what is not caught here is not tested here.

Each is a mistake that somebody could make in good faith. `PLANTED` names them and what each breaks;
`python -m tests.simulation --planted` finds the first seed that catches each.
"""

from dataclasses import dataclass

from streams import intake, pin_fold, state_topic, worker
from streams.embedded_tiers import EmbeddedTiers
from streams.outlet import Outlet
from streams.state_cache import CachedStore
from streams.state_flush import StateFlush
from streams.tower_claims import TowerClaims
from streams.worker import EnrichmentWorker

from . import plants
from .plants import Plant, replacing


@dataclass(frozen=True)
class Planted:
    """A mistake, and the kinds of violation (`tests.simulation.history`) that it is meant to cause.

    Any other kind shows that it does not do what its name says: one that no longer fits the code crashes.
    """

    plant: Plant
    kinds: frozenset[str]


def _planted(plant: Plant, *kinds: str) -> Planted:
    return Planted(plant, frozenset(kinds))


PLANTED: dict[str, Planted] = {
    "commit before store": _planted(
        replacing(EnrichmentWorker, "_step", plants.commit_first), "committed_not_delivered", "untrue_tower"
    ),
    "commit before acknowledge": _planted(
        replacing(EnrichmentWorker, "_settle", plants.commit_unacknowledged),
        "committed_not_delivered",
        "untrue_tower",
    ),
    "acknowledgements are not awaited": _planted(
        replacing(Outlet, "wait", plants.nothing_is_awaited), "untrue_checkpoint", "untrue_tower"
    ),
    "letters after the commit": _planted(plants.letters_after_the_commit, "letter_missing"),
    "position and states in two writes": _planted(
        replacing(CachedStore, "put_many", plants.two_writes), "wrong_value"
    ),
    "redelivered events are not emitted": _planted(
        replacing(worker, "enrich", plants.only_what_changed),
        "committed_not_delivered",
        "lost",
        "untrue_tower",
    ),
    "start at the group's offset": _planted(
        replacing(intake, "plan_start", plants.from_the_groups_offset), "wrong_value", "untrue_checkpoint"
    ),
    "start at the store's offset": _planted(
        # What is passed over is never committed either: the group does not come to the end.
        replacing(intake, "plan_start", plants.from_the_stores_offset),
        "letter_missing",
        "stuck",
    ),
    "silent below the store's offset": _planted(
        replacing(intake, "plan_start", plants.silent_below_the_store), "letter_missing"
    ),
    "fold ignores offsets": _planted(replacing(pin_fold, "fold", plants.every_event_is_new), "wrong_value"),
    "a flush forgets all but its first chunk": _planted(
        replacing(StateFlush, "next_rows", plants.first_chunk_only), "untrue_checkpoint"
    ),
    "checkpoint before its rows are acknowledged": _planted(
        replacing(EnrichmentWorker, "_settle", plants.checkpoint_too_early), "untrue_checkpoint"
    ),
    "checkpoint covers what came after the flush": _planted(
        replacing(StateFlush, "_start", plants.covers_what_came_later), "untrue_checkpoint"
    ),
    "a new tower is named at old offsets": _planted(
        replacing(StateFlush, "next_rows", plants.named_without_a_flush), "untrue_tower"
    ),
    "silent events count as embedded": _planted(
        replacing(StateFlush, "follow", plants.silent_events_count_as_embedded), "untrue_tower"
    ),
    "a dropped tower stays named": _planted(
        replacing(TowerClaims, "retract", plants.stays_named), "untrue_tower"
    ),
    "Pins of batch tiers are embedded": _planted(
        replacing(EmbeddedTiers, "chosen", plants.every_tier), "phantom"
    ),
    "towers turn down silent events of batch tiers": _planted(
        replacing(worker, "fold_known", plants.catches_up_as_if_all_were_embedded),
        "restored_wrong",
        "untrue_checkpoint",
    ),
    "restore stops before the end": _planted(
        replacing(state_topic, "_read", plants.stops_before_the_end), "restored_wrong"
    ),
    "zombie without a fence": _planted(replacing(EnrichmentWorker, "_check_fence", plants.no_fence), "lost"),
    "reader takes the last arrival": _planted(plants.last_arrival_wins, "lost", "stale_after_fresh"),
}
