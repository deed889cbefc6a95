"""Training examples: what was so at each query's time, and which Pins the user then engaged with."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .pin_state import PIN_RECORD, Records
from .user_state import CONTEXT_RECORD, USER_RECORD

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Examples:
    """Queries, Pin states and the pairs that were positive.

    A *period* is a stretch of time with one state per Pin (here a week). A Pin has at most one row in
    a period, and a query's positives and negatives all come from its own period. `is_sampled` marks
    the rows of a uniform sample of the catalogue; the others are there because a pair needs them.
    Raises ValueError when lengths or record types do not fit together.
    """

    users: Records
    """USER_RECORD (Q,): before the query."""
    contexts: Records
    """CONTEXT_RECORD (Q,)."""
    query_period: npt.NDArray[np.int64]
    pins: Records
    """PIN_RECORD (P,): at the period's start."""
    pin_period: npt.NDArray[np.int64]
    is_sampled: npt.NDArray[np.bool_]
    pair_query: Indices
    """(N,): row of `users` and `contexts`, ascending."""
    pair_pin: Indices
    """(N,): row of `pins`."""
    catalogue_size: int
    """How many Pins the samples were drawn from."""

    def __post_init__(self) -> None:
        queries, rows = len(self.users), len(self.pins)
        lengths_fit = (
            len(self.contexts) == len(self.query_period) == queries
            and len(self.pin_period) == len(self.is_sampled) == rows
            and len(self.pair_query) == len(self.pair_pin)
        )
        types_fit = (self.users.dtype, self.contexts.dtype, self.pins.dtype) == (
            USER_RECORD,
            CONTEXT_RECORD,
            PIN_RECORD,
        )
        if not (lengths_fit and types_fit):
            raise ValueError("queries, Pins and pairs do not fit together")
        if (self.query_period[self.pair_query] != self.pin_period[self.pair_pin]).any():
            raise ValueError("a pair joins a query and a Pin state of different periods")

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.users)

    @property
    def pairs(self) -> int:
        """Number of positive (query, Pin) pairs."""
        return len(self.pair_query)

    def subset(self, queries: Indices) -> "Examples":
        """The chosen queries (ascending rows) with their pairs; the Pins stay as they are."""
        place = np.full(self.queries, -1, np.intp)
        place[queries] = np.arange(len(queries))
        kept = place[self.pair_query] >= 0
        return replace(
            self,
            users=self.users[queries],
            contexts=self.contexts[queries],
            query_period=self.query_period[queries],
            pair_query=place[self.pair_query[kept]],
            pair_pin=self.pair_pin[kept],
        )
