"""The leaves that a root knows: which are up, what they hold, and a question put to all of them at once."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from features.shard_slices import Shard
from schemas.errors import Refused
from schemas.manifests import ReleaseManifest

from .clock import Clock
from .gather import misfit
from .poll import Poll
from .shard_client import Endpoint, Failure, Outcome, ask_all, get_bytes, post_bytes
from .shard_telemetry import RootTelemetry
from .shard_wire import MEDIA_TYPE, READY_PATH, SEARCH_PATH, Answer, decode_answer

TIMEOUTS_UNTIL_DOWN = 3
NAMES_SECONDS = 3.0
"""Between two attempts to find another address for a leaf that is down."""


@dataclass(frozen=True)
class LeafPolicy:
    """How long a root waits for its leaves, and how many of them a swap needs."""

    deadline_seconds: float = 0.25
    """For one request: a shard that has not answered by then is not in the answer."""
    down_seconds: float = 10.0
    """A leaf that is down for longer does not hold up a swap."""
    quorum: int = 0
    """Leaves that must have loaded a release before the root swaps to it; 0: every leaf that is not down."""
    poll_seconds: float = 0.2
    look_seconds: float = 2.0
    """How long a leaf may take to say that it is ready."""


@dataclass
class _Leaf:
    """One leaf as it was last seen."""

    shard: Shard
    name: str
    asking: Endpoint
    looking: Endpoint
    up_at_seconds: float
    up: bool = False
    timeouts: int = 0
    held: tuple[str, ...] = ()
    trouble: str = "not looked at yet"

    def close(self) -> None:
        """Close the connections to it that are idle."""
        self.asking.close()
        self.looking.close()


class Leaves:
    """Puts questions to every leaf that is up, and looks after them from a thread of its own.

    The n-th address is the leaf of shard n: one that says it is another is treated as down.
    """

    def __init__(
        self, addresses: Sequence[str], policy: LeafPolicy, clock: Clock, telemetry: RootTelemetry
    ) -> None:
        self._policy, self._clock, self._telemetry = policy, clock, telemetry
        self._leaves = [
            _Leaf(Shard(number, len(addresses)), name, Endpoint(), Endpoint(), clock.seconds())
            for number, name in enumerate(addresses, start=1)
        ]
        # What it finds out within a deadline must not wait for requests, nor for a name server.
        self._poll = Poll("leaves", self.look, gives_way=False)
        self._names = Poll("leaf-names", self.find)

    @property
    def shards(self) -> list[Shard]:
        """Every shard, in order."""
        return [leaf.shard for leaf in self._leaves]

    def ask(self, manifest: ReleaseManifest, body: Callable[[Shard], bytes]) -> list[Answer]:
        """Each shard's answer to `body(shard)`, of those that answer in time and with this very release.

        Every shard that is missing is counted with the reason.
        """
        asked = [leaf for leaf in self._leaves if leaf.up]
        for leaf in self._leaves:
            if not leaf.up:
                self._telemetry.missing(leaf.shard.number, "down")
        deadline = self._clock.seconds() + self._policy.deadline_seconds
        requests = [(leaf.asking, post_bytes(SEARCH_PATH, body(leaf.shard), MEDIA_TYPE)) for leaf in asked]
        outcomes = ask_all(requests, deadline, self._clock.seconds)
        answers = []
        for leaf, outcome in zip(asked, outcomes, strict=True):
            answer = self._read(leaf, outcome, manifest)
            if isinstance(answer, Answer):
                answers.append(answer)
            else:
                self._telemetry.missing(leaf.shard.number, answer)
        self._telemetry.scattered(len(self._leaves), len(answers))
        return answers

    def _read(self, leaf: _Leaf, outcome: Outcome, manifest: ReleaseManifest) -> Answer | str:
        """A usable answer, or why there is none."""
        leaf.timeouts = leaf.timeouts + 1 if outcome is Failure.TIMEOUT else 0
        if outcome is Failure.UNREACHABLE or leaf.timeouts >= TIMEOUTS_UNTIL_DOWN:
            # Not asked again until it says that it is there: the dead must not cost every request a wait.
            self._seen(leaf, (), "does not answer questions")
        if isinstance(outcome, Failure):
            return outcome.value
        if outcome.status != 200:
            return "not_held" if outcome.status == 409 else "error"
        try:
            answer = decode_answer(outcome.body)
        except Refused:
            return "malformed"
        return misfit(answer, manifest, leaf.shard) or answer

    def find(self) -> None:
        """Look up the name of every leaf that is not up: it may have got another address with a restart.

        May take as long as the name server does; the last address is kept until there is another one.
        """
        for leaf in self._leaves:
            if not leaf.up:
                _look_up(leaf)

    def look(self) -> None:
        """Ask every leaf that has an address what it is and has; once."""
        known = [leaf for leaf in self._leaves if leaf.looking.address is not None]
        for leaf in self._leaves:
            if leaf not in known:
                self._seen(leaf, (), "its name has no address")
        deadline = self._clock.seconds() + self._policy.look_seconds
        request = get_bytes(READY_PATH)
        outcomes = ask_all([(leaf.looking, request) for leaf in known], deadline, self._clock.seconds)
        for leaf, outcome in zip(known, outcomes, strict=True):
            held, trouble = _readiness(leaf.shard, outcome)
            self._seen(leaf, held, trouble)
            if trouble and not isinstance(outcome, Failure):
                # Another leaf, or none: what is connected to it is of no use when the name moves on.
                leaf.close()

    def _seen(self, leaf: _Leaf, held: tuple[str, ...], trouble: str) -> None:
        if leaf.up and trouble:
            # Its host may have gone without a word: whoever asked over a kept connection would wait for it.
            leaf.close()
        leaf.held, leaf.trouble, leaf.up = held, trouble, not trouble
        if leaf.up:
            leaf.up_at_seconds, leaf.timeouts = self._clock.seconds(), 0
        self._telemetry.leaf_is(leaf.shard.number, up=leaf.up)

    def blocking(self, release_id: str) -> list[str]:
        """Addresses of the leaves that have to load this release before it may be served."""
        ready = [leaf for leaf in self._leaves if leaf.up and release_id in leaf.held]
        late = [leaf for leaf in self._leaves if leaf not in ready and not self._given_up(leaf)]
        if self._policy.quorum:
            missing = min(self._policy.quorum, len(self._leaves)) - len(ready)
            late = [leaf for leaf in self._leaves if leaf not in ready][: max(missing, 0)]
        elif not ready:
            # Nobody has it: there is nothing to swap to, however long they have been down.
            late = self._leaves
        return [leaf.name for leaf in late]

    def more_hold(self, release_id: str, served: str) -> bool:
        """Whether more leaves hold `release_id` than hold `served`, or may: those that just went down."""
        ready = sum(leaf.up and release_id in leaf.held for leaf in self._leaves)
        return ready > sum(
            served in leaf.held if leaf.up else not self._given_up(leaf) for leaf in self._leaves
        )

    def waited_for(self, leaves: int) -> None:
        """Count the leaves that the next swap waits for."""
        self._telemetry.waiting(leaves)

    def _given_up(self, leaf: _Leaf) -> bool:
        return not leaf.up and self._clock.seconds() - leaf.up_at_seconds > self._policy.down_seconds

    def status(self) -> list[dict[str, Any]]:
        """Each leaf as it was last seen."""
        return [
            {
                "shard": str(leaf.shard),
                "address": leaf.name,
                "up": leaf.up,
                "held": list(leaf.held),
                "trouble": leaf.trouble,
            }
            for leaf in self._leaves
        ]

    def start(self) -> None:
        """Look after the leaves until `close`; the first look is taken before this returns."""
        self.find()
        self.look()
        self._poll.start(self._policy.poll_seconds)
        self._names.start(NAMES_SECONDS)

    def close(self) -> None:
        """Stop looking and close every connection."""
        self._poll.close()
        self._names.close()
        for leaf in self._leaves:
            leaf.close()


def _look_up(leaf: _Leaf) -> None:
    """Give the leaf the address that its name has now; what it has stays when the name has none."""
    host, _, port = leaf.name.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][4]
    except (OSError, ValueError):
        return
    for endpoint in (leaf.looking, leaf.asking):
        endpoint.move_to((str(found[0]), int(found[1])))


def _readiness(shard: Shard, outcome: Outcome) -> tuple[tuple[str, ...], str]:
    """What a leaf holds, and what is wrong with it; empty for nothing."""
    if isinstance(outcome, Failure):
        return (), outcome.value
    try:
        said = orjson.loads(outcome.body)
        came = Shard(said["shard"], said["shards"])
        held = tuple(str(one) for one in said["held"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return (), f"no leaf: it answered {outcome.status}"
    if came != shard:
        return (), f"it is shard {came}, not {shard}"
    # One without a release is up all the same: a swap waits for it.
    return held, ""
