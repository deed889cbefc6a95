"""`skewless embed`: which tiers are embedded with which towers, when, and what becomes of the snapshot."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from features.definitions import registry
from index.snapshots import newest_of_tiers, snapshot_manifest
from models.live_towers import complete_version, read_live_towers
from models.predictor import PinTower
from schemas.artefacts import write_atomic
from schemas.errors import Refused
from schemas.manifests import SnapshotManifest
from schemas.statuses import EmbedStatus
from schemas.tiers import Tier
from streams.batch_embedder import BatchEmbedder, Embedded, EmbedPlan, EmbedSurroundings, Share
from streams.batch_states import KafkaStates
from streams.live_gate import Waiting
from streams.topic_reader import TopicReader

from .clocks import now_ms
from .kafka_connection import kafka_settings
from .settings import Settings

log = logging.getLogger(__name__)

_SHOW_SECONDS = 1.0
_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 10.0
_NOT_THE_END = {"empty", "run_gone"}

Show = Callable[[EmbedStatus], None]
Stopped = Callable[[], bool]


class CandidateRefused(Refused):
    """A live tower that is not the serving one was refused; what the others came to is in `done`."""

    def __init__(self, refused: Refused, done: list[Embedded]) -> None:
        super().__init__(refused.code, refused.expected, refused.came, refused.fix)
        self.done = done


OnSnapshot = Callable[[SnapshotManifest], None]


@dataclass(frozen=True)
class EmbedWish:
    """What the command line asked for. `towers` empty: every live tower, the serving one first."""

    tier: Tier
    towers: tuple[str, ...] = ()
    share: Share = field(default_factory=Share)
    wait_seconds: float = 600.0
    assemble_only: bool = False


def full_version(settings: Settings, prefix: str) -> str:
    """The one tower version that begins so. Raises Refused."""
    return complete_version(settings.towers_dir, prefix)


def embed_once(
    settings: Settings, wish: EmbedWish, on_snapshot: OnSnapshot, show: Show, stopped: Stopped
) -> list[Embedded]:
    """Embed the tier with each wished tower. A batch tier's snapshot is told to `on_snapshot`.

    Raises Refused, and RetryableError when Kafka or the workers keep it waiting for too long. A refusal of a
    live tower that is not the serving one comes at the end, as CandidateRefused: the others are through then.
    """
    done: list[Embedded] = []
    refusal: Refused | None = None
    candidates = read_live_towers(settings.towers_dir)[1:]
    for version in wish.towers or _live(settings):
        if stopped():
            break
        try:
            result = _embed_with(settings, wish, version, show, stopped)
        except Refused as refused:
            if version not in candidates:
                raise
            log.warning("tower %s: %s", version[:12], refused)
            refusal = refused
            continue
        if result is None:
            break
        done.append(result)
        if result.assembled is not None and wish.tier.policy == "batch":
            on_snapshot(snapshot_manifest(settings.snapshots_dir, result.assembled.snapshot_id))
    if refusal is not None:
        raise CandidateRefused(refusal, done)
    return done


def _embed_with(
    settings: Settings, wish: EmbedWish, version: str, show: Show, stopped: Stopped
) -> Embedded | None:
    with _embedder(settings, wish, version, show, stopped) as embedder:
        return embedder.assemble() if wish.assemble_only else embedder.run()


@dataclass(frozen=True)
class Pace:
    """How often a batch tier is embedded; `clock` in monotonic seconds, `pause` sleeps."""

    every_seconds: float
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


def embed_every(
    settings: Settings, wish: EmbedWish, pace: Pace, on_snapshot: OnSnapshot, show: Show, stopped: Stopped
) -> Iterator[list[Embedded]]:
    """Embed, wait, and again until stopped. A tower that goes live meanwhile does not wait for its turn.

    A round that finds no Pins yet, or that has lost its rollover, is logged and not the end. Nor is a
    candidate that is refused, unless the wish names it: it is tried again when a round is due. Raises
    Refused and RetryableError.
    """
    due = pace.clock()
    tried: dict[str, float] = {}
    while not stopped():
        now, towers = pace.clock(), wish.towers or _live(settings)
        # What lacks other processes' shards after a round is looked at again, but not all the time.
        rested = [one for one in towers if now - tried.get(one, float("-inf")) >= _AGAIN_SECONDS]
        new = tuple(one for one in rested if _lacks_snapshot(settings, wish, one))
        is_due = now >= due
        if not is_due and not new:
            pace.pause(min(_LOOK_SECONDS, max(due - pace.clock(), 0)))
            continue
        if is_due:
            due = pace.clock() + pace.every_seconds
        round_of = wish if is_due else replace(wish, towers=new)
        tried |= dict.fromkeys(towers if is_due else new, now)
        try:
            yield embed_once(settings, round_of, on_snapshot, show, stopped)
        except Refused as refused:
            if isinstance(refused, CandidateRefused) and refused.done:
                yield refused.done
            if isinstance(refused, CandidateRefused) and not wish.towers:
                if refused.code not in _NOT_THE_END:
                    tried |= dict.fromkeys(round_of.towers or towers, due)
                continue
            if refused.code not in _NOT_THE_END:
                raise
            log.warning("%s", refused)
            again = pace.clock() + min(pace.every_seconds, _AGAIN_SECONDS)
            while not stopped() and (left := again - pace.clock()) > 0:
                pace.pause(min(_LOOK_SECONDS, left))


def _lacks_snapshot(settings: Settings, wish: EmbedWish, version: str) -> bool:
    return wish.tier.name not in newest_of_tiers(settings.snapshots_dir, version)


def _live(settings: Settings) -> tuple[str, ...]:
    live = read_live_towers(settings.towers_dir)
    if not live:
        raise Refused(
            "no_live_tower",
            "a tower to embed with",
            f"{settings.towers_dir / 'LIVE'} names none",
            "Give one with --tower, or name it with `skewless towers live`.",
        )
    return tuple(live)


@contextmanager
def _embedder(
    settings: Settings, wish: EmbedWish, version: str, show: Show, stopped: Stopped
) -> Iterator[BatchEmbedder]:
    if wish.tier.policy == "realtime" and version not in read_live_towers(settings.towers_dir):
        raise Refused(
            "not_live",
            f"a live tower: what changes meanwhile in tier {wish.tier.name} is for the workers to embed",
            f"{version[:12]}, which LIVE does not name",
            "`skewless rollover start --tower` makes it a candidate.",
        )
    tower = PinTower.load(settings.towers_dir, version, registry(), settings.device)
    clock = "wall" if settings.cut_every_seconds else settings.cut_clock
    plan = EmbedPlan(wish.tier, settings.embeddings_dir, settings.snapshots_dir, clock, wish.share)
    waiting = Waiting(wish.wait_seconds, time.monotonic, time.sleep, _Said(), stopped)
    around = EmbedSurroundings(waiting, now_ms, _StatusWriter(settings, wish, show))
    with TopicReader(kafka_settings(settings)) as reader:
        yield BatchEmbedder(KafkaStates(reader), tower, tower.manifest, plan, around)


class _Said:
    """Logs what it waits for when that changes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, why: str) -> None:
        if why and why != self._last:
            log.warning("waiting: %s", why)
        self._last = why


class _StatusWriter:
    """Shows every status and writes one a second, and every one in which a partition came to its end."""

    def __init__(self, settings: Settings, wish: EmbedWish, show: Show) -> None:
        share = wish.share
        self._path = settings.status_file(f"embed-{wish.tier.name}-{share.index}of{share.of}")
        self._show = show
        self._written = (float("-inf"), -1, "")

    def __call__(self, status: EmbedStatus) -> None:
        self._show(status)
        now = time.monotonic()
        at, done, waiting = self._written
        if now - at >= _SHOW_SECONDS or (status.done, status.waiting) != (done, waiting):
            self._written = (now, status.done, status.waiting)
            write_atomic(self._path, status.model_dump_json().encode())
