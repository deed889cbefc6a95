"""Everything that is noted about an answered request, in one call of the request path."""

from dataclasses import dataclass

from .clock import Clock
from .explain import Explanations
from .ranked import Ranked
from .ranking_log import RankingLogWriter
from .recent import RecentRequests
from .telemetry import ServingTelemetry


@dataclass(frozen=True)
class Recorder:
    """Metrics, recent figures, explanations and the ranking log; none of them blocks."""

    telemetry: ServingTelemetry
    recent: RecentRequests
    explanations: Explanations
    ranking_log: RankingLogWriter
    clock: Clock

    def record(self, ranked: Ranked) -> None:
        """Note one answer."""
        self.telemetry.answered(ranked)
        durations = {stage.stage: stage.duration_seconds for stage in ranked.stages}
        durations["total"] = ranked.duration_seconds
        self.recent.add(durations, ranked.served_at_ms // 1_000)
        self.explanations.record(ranked)
        self.ranking_log.append(ranked)
