from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from schemas.codec import decode
from schemas.errors import DeadLetterReason, RetryableError
from schemas.logs import ReleasePublished
from schemas.skew import EmbeddingsCounted, SkewAlerted
from schemas.tiers import VersionPolicy
from schemas.topics import EMBEDDINGS_COUNTED, RANKING_LOGGED, RELEASE_PUBLISHED
from streams.positions import Partition
from streams.skew_alerts import SkewRules
from streams.skew_monitor import SkewMonitorStep
from streams.skew_telemetry import SkewTelemetry
from streams.steps import Output, RawEvent
from tests.streams.raw_events import VERSION_A, VERSION_B, ranking_log, raw

START_MS = 1_700_000_000_000
SECOND = 1_000


def release(version: str, second: float, *, tier: str = "realtime", joined: str = "") -> ReleasePublished:
    return ReleasePublished(
        release_id=f"release-{version[0]}",
        tower_version=version,
        snapshot_id=f"{tier}-20170101T00Z-01234567{joined}",
        action="publish",
        actor="test",
        reason="test",
        occurred_at_ms=START_MS + int(second * SECOND),
    )


def embedded(
    second: float, versions: Sequence[str], *, pins: int = 10, tier: str = "realtime"
) -> EmbeddingsCounted:
    until_ms = START_MS + int(second * SECOND)
    return EmbeddingsCounted(
        worker="worker-0",
        tier=tier,
        from_ms=until_ms - SECOND,
        until_ms=until_ms,
        pins=pins,
        rows=dict.fromkeys(versions, pins),
    )


def answer(
    second: float,
    version: str = VERSION_A,
    pin_version: str | None = None,
    version_policy: VersionPolicy = "enforce",
) -> BaseModel:
    log = ranking_log(
        START_MS + int(second * SECOND),
        query_version=version,
        pin_versions=(pin_version or version, version),
    )
    return log.model_copy(update={"version_policy": version_policy})


@dataclass
class Monitor:
    """A monitor that is driven second by second: messages, then a tick; it keeps what was sent."""

    path: Path
    rules: SkewRules = field(default_factory=SkewRules)
    sent: list[Output] = field(default_factory=list)
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    offsets: dict[str, int] = field(default_factory=dict)
    log: list[RawEvent] = field(default_factory=list)
    told: Callable[[], Sequence[SkewAlerted]] = tuple

    def __post_init__(self) -> None:
        self.step = self.open()

    def open(self) -> SkewMonitorStep:
        return SkewMonitorStep(self.path, self.rules, SkewTelemetry(self.metrics), self.told)

    def restart(self) -> None:
        self.step.close()
        self.metrics = CollectorRegistry()
        self.step = self.open()

    def event(self, message: BaseModel) -> RawEvent:
        topic = str(getattr(message, "type_name"))  # noqa: B009
        self.offsets[topic] = self.offsets.get(topic, -1) + 1
        key = next(
            str(getattr(message, name))
            for name in ("release_id", "worker", "request_id")
            if hasattr(message, name)
        )
        if topic == "ranking.logged.v1":
            key = str(getattr(message, "request_id"))  # noqa: B009
        return raw(message, self.offsets[topic], key=key.encode())

    def take(self, *messages: BaseModel) -> None:
        events = [self.event(one) for one in messages]
        self.log += events
        self.step.apply(events)

    def tick(self, second: float) -> list[Output]:
        outputs = self.step.tick(START_MS + int(second * SECOND)).outputs
        self.sent += outputs
        return outputs

    def rows(self) -> list[tuple[str, str]]:
        return [(row.kind, row.state) for row in self.alerts()]

    def alerts(self) -> list[SkewAlerted]:
        return [decode(SkewAlerted, one.value) for one in self.sent]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    made = Monitor(tmp_path)
    yield made
    made.step.close()


def test_what_a_server_mixes_under_tolerate_is_no_alert_and_hides_none(monitor: Monitor) -> None:
    labels = {"tier": "realtime", "kind": "mixed_responses"}
    tolerated = [answer(second, VERSION_A, VERSION_B, "tolerate") for second in range(1, 4)]
    monitor.take(release(VERSION_A, 0), *tolerated)
    monitor.tick(4)
    share = monitor.metrics.get_sample_value("skewless_skew_share", labels)
    before = monitor.rows()
    monitor.restart()
    monitor.take(answer(5, VERSION_A, VERSION_B), answer(5))
    monitor.tick(5)

    assert (share, before) == (0, [])
    assert [(row.kind, row.state, row.share) for row in monitor.alerts()] == [
        ("mixed_responses", "raised", 0.5)
    ]


def test_one_mixed_answer_is_an_alert_at_the_next_tick(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, 0), answer(1), answer(2), answer(3, VERSION_A, VERSION_B), answer(4))
    monitor.tick(4)

    (output,) = monitor.sent
    assert (output.topic, output.key) == ("skew.alerted.v1", b"realtime:mixed_responses")
    assert monitor.alerts() == [
        SkewAlerted(
            tier="realtime",
            kind="mixed_responses",
            state="raised",
            share=0.25,
            threshold=0.0,
            versions={VERSION_A: 7 / 8, VERSION_B: 1 / 8},
            serving_version=VERSION_A,
            since_ms=START_MS + 4_000,
            occurred_at_ms=START_MS + 4_000,
        )
    ]


def test_it_is_cleared_when_the_window_has_been_clean_for_a_minute(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, 0), answer(1, VERSION_A, VERSION_B))
    for second in range(2, 720):
        monitor.take(answer(second))
        monitor.tick(second)

    cleared = monitor.alerts()[1]
    # In the bucket from 0 to 10 s, which leaves the window of 600 s as a whole; then 60 s without any.
    assert (cleared.state, cleared.share) == ("cleared", 0.0)
    assert (cleared.since_ms - START_MS, cleared.occurred_at_ms - START_MS) == (610_000, 670_000)
    assert len(monitor.sent) == 2


def test_pins_without_a_row_of_the_serving_version_are_an_alert_after_half_a_minute(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, -300))
    for second in range(60):
        monitor.take(embedded(second, [VERSION_B]))
        monitor.tick(second)

    (alert,) = monitor.alerts()
    assert (alert.kind, alert.share, alert.versions) == ("stream_not_aligned", 1.0, {VERSION_B: 1.0})
    assert (alert.since_ms, alert.occurred_at_ms) == (START_MS, START_MS + 30_000)


def test_answers_of_a_tower_that_is_not_released_are_an_alert(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, -300))
    for second in range(60):
        monitor.take(answer(second, VERSION_B))
        monitor.tick(second)

    assert monitor.rows() == [("query_not_released", "raised")]


def rollover(monitor: Monitor) -> None:
    """From A to B as it is done: both are live, B is published at 300, servers and workers follow."""
    monitor.take(release(VERSION_A, -1_000))
    for second in range(1_200):
        live = [VERSION_A] if second < 100 else [VERSION_A, VERSION_B] if second < 360 else [VERSION_B]
        serving = VERSION_A if second < 345 else VERSION_B
        if second == 300:
            monitor.take(release(VERSION_B, second))
        monitor.take(embedded(second, live), answer(second, serving))
        monitor.tick(second)


def test_a_rollover_is_no_alert(monitor: Monitor) -> None:
    rollover(monitor)

    assert monitor.sent == []


def test_without_grace_the_same_rollover_would_be_one(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, SkewRules(grace_ms=0))
    rollover(monitor)
    monitor.step.close()

    assert ("query_not_released", "raised") in monitor.rows()


def test_a_release_that_is_read_late_is_no_alert(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, -1_000))
    monitor.tick(0)
    # A backlog of ten minutes in which B became the serving version, read in a few seconds.
    for second in range(600):
        monitor.take(embedded(second, [VERSION_A] if second < 100 else [VERSION_B]))
        if second % 200 == 199:
            monitor.tick(700 + second / 200)
    monitor.take(release(VERSION_B, 100))
    for second in range(610, 700):
        monitor.take(embedded(second, [VERSION_B]))
        monitor.tick(100 + second)

    assert monitor.sent == []


def test_a_rollback_to_a_version_that_is_embedded_no_more_is_an_alert_after_the_grace(
    monitor: Monitor,
) -> None:
    monitor.take(release(VERSION_A, -1_000), release(VERSION_B, -500), release(VERSION_A, 0))
    for second in range(1, 200):
        monitor.take(embedded(second, [VERSION_B]))
        monitor.tick(second)

    (alert,) = monitor.alerts()
    assert (alert.kind, alert.serving_version) == ("stream_not_aligned", VERSION_A)
    assert alert.since_ms >= START_MS + 120_000


def test_a_restart_neither_raises_twice_nor_forgets(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, -300))
    for second in range(1_500):
        if second % 40 == 20:
            monitor.restart()
        monitor.take(embedded(second, [VERSION_B] if second < 200 else [VERSION_A]))
        monitor.tick(second)

    assert monitor.rows() == [("stream_not_aligned", "raised")] or monitor.rows() == [
        ("stream_not_aligned", "raised"),
        ("stream_not_aligned", "cleared"),
    ]
    assert monitor.rows()[0] == ("stream_not_aligned", "raised")


def test_a_raised_alert_is_the_same_after_a_restart_and_is_cleared_there(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, -300))
    for second in range(100):
        monitor.take(embedded(second, [VERSION_B]))
        monitor.tick(second)
    monitor.restart()
    for second in range(100, 1_000):
        monitor.take(embedded(second, [VERSION_A]))
        monitor.tick(second)

    assert monitor.rows() == [("stream_not_aligned", "raised"), ("stream_not_aligned", "cleared")]


def everything() -> list[Partition]:
    topics = (RANKING_LOGGED, RELEASE_PUBLISHED, EMBEDDINGS_COUNTED)
    return [(topic.name, number) for topic in topics for number in range(topic.partitions)]


def raised_by(path: Path) -> Monitor:
    """A monitor that has raised an alert at 30 and saw nothing but skew until 60."""
    monitor = Monitor(path)
    monitor.take(release(VERSION_A, -300))
    for second in range(60):
        monitor.take(embedded(second, [VERSION_B]))
        monitor.tick(second)
    assert monitor.rows() == [("stream_not_aligned", "raised")]
    monitor.step.close()
    return monitor


def clean(monitor: Monitor, since: int, until: int) -> None:
    for second in range(since, until):
        monitor.take(embedded(second, [VERSION_A]))
        monitor.tick(second)


def test_an_alert_whose_monitor_has_lost_its_state_is_cleared_by_the_next_one(tmp_path: Path) -> None:
    gone = raised_by(tmp_path / "gone")
    fresh = Monitor(tmp_path / "fresh", told=gone.alerts, offsets=gone.offsets)
    fresh.step.owned(everything())
    fresh.tick(60)
    fresh.step.apply(gone.log)
    clean(fresh, 60, 1_000)
    fresh.step.close()

    assert fresh.rows() == [("stream_not_aligned", "cleared")]


def test_a_monitor_takes_a_newer_alert_over_and_keeps_its_own_newer_one(tmp_path: Path) -> None:
    gone = raised_by(tmp_path / "gone")
    told: list[SkewAlerted] = []
    standby = Monitor(tmp_path / "standby", told=lambda: told, offsets=gone.offsets)
    standby.step.owned([(RANKING_LOGGED.name, 0)])
    standby.step.apply(gone.log)
    standby.tick(60)
    told += gone.alerts()
    standby.step.owned(everything())
    clean(standby, 60, 1_000)
    after = standby.rows()
    standby.step.owned(())
    standby.step.owned(everything())
    clean(standby, 1_000, 1_300)
    standby.step.close()

    assert after == standby.rows() == [("stream_not_aligned", "cleared")]


def test_a_question_about_alerts_that_was_not_answered_is_asked_again(tmp_path: Path) -> None:
    gone = raised_by(tmp_path / "gone")
    answers = [gone.alerts, _unreachable]

    def told() -> Sequence[SkewAlerted]:
        return answers.pop()()

    fresh = Monitor(tmp_path / "fresh", told=told, offsets=gone.offsets)
    with pytest.raises(RetryableError):
        fresh.step.owned(everything())
    fresh.step.owned(everything())
    fresh.tick(60)
    labels = {"tier": "realtime", "kind": "stream_not_aligned"}
    raised = fresh.metrics.get_sample_value("skewless_skew_alert_active", labels)
    fresh.step.close()

    assert raised == 1


def _unreachable() -> list[SkewAlerted]:
    raise RetryableError("Kafka is out of reach")


def test_a_raised_alert_of_a_tier_that_has_fallen_silent_stays_on_the_gauge_over_a_restart(
    monitor: Monitor,
) -> None:
    monitor.take(answer(1, VERSION_A, VERSION_B))
    monitor.tick(1)
    monitor.take(embedded(5_000, [VERSION_A], tier="batch"))
    monitor.restart()
    monitor.tick(5_000)

    labels = {"tier": "realtime", "kind": "mixed_responses"}
    assert monitor.metrics.get_sample_value("skewless_skew_alert_active", labels) == 1


@pytest.mark.parametrize(
    ("live", "alerts"), [(VERSION_B, []), (VERSION_A, [("stream_not_aligned", "raised")])]
)
def test_a_release_of_several_tiers_is_a_move_of_each(
    monitor: Monitor, live: str, alerts: list[tuple[str, str]]
) -> None:
    both = release(VERSION_B, 0, tier="slow", joined="+fast-20170101T00Z-89abcdef")
    monitor.take(release(VERSION_A, -1_000, tier="fast"), both)
    for second in range(130, 200):
        monitor.take(embedded(second, [live], tier="fast"))
        monitor.tick(second)

    assert monitor.rows() == alerts


def test_an_alert_of_a_tier_is_cleared_by_answers_that_name_it_behind_another(monitor: Monitor) -> None:
    def joint(second: float, pin_version: str, *tiers: str) -> BaseModel:
        one = answer(second, VERSION_A, pin_version)
        return one.model_copy(update={"snapshot_id": "+".join(f"{t}-20170101T00Z-01234567" for t in tiers)})

    monitor.take(joint(1, VERSION_B, "slow"))
    monitor.tick(1)
    for second in range(2, 720):
        monitor.take(joint(second, VERSION_A, "fast", "slow"))
        monitor.tick(second)

    assert [(row.tier, row.state) for row in monitor.alerts()] == [("slow", "raised"), ("slow", "cleared")]


@pytest.mark.parametrize(("later", "states"), [(599, ["raised"]), (600, ["raised", "cleared"])])
def test_an_alert_of_a_tier_that_releases_have_left_out_for_a_window_is_cleared(
    monitor: Monitor, later: int, states: list[str]
) -> None:
    monitor.take(release(VERSION_A, 0), answer(1, VERSION_A, VERSION_B))
    monitor.tick(1)
    monitor.take(release(VERSION_A, later, tier="renamed"))
    for second in range(1_000, 1_100):
        monitor.take(embedded(second, [VERSION_A], tier="renamed"))
        monitor.tick(second)

    assert [(row.tier, row.state) for row in monitor.alerts()] == [("realtime", state) for state in states]


def test_an_alert_that_may_not_have_been_sent_is_sent_again_as_it_was(monitor: Monitor) -> None:
    monitor.take(answer(1, VERSION_A, VERSION_B))
    lost = monitor.tick(1)
    monitor.restart()
    again, then = monitor.tick(2), monitor.tick(3)

    assert len(lost) == 1
    assert (again, then) == (lost, [])


def test_silence_clears_nothing(monitor: Monitor) -> None:
    monitor.take(answer(1, VERSION_A, VERSION_B))
    for second in range(1, 3_000, 10):
        monitor.tick(second)

    assert monitor.rows() == [("mixed_responses", "raised")]


def test_tiers_are_judged_apart(monitor: Monitor) -> None:
    monitor.take(release(VERSION_A, -300), release(VERSION_B, -300, tier="batch"))
    for second in range(60):
        monitor.take(embedded(second, [VERSION_A]), embedded(second, [VERSION_A], tier="batch"))
        monitor.tick(second)

    assert [(row.tier, row.serving_version) for row in monitor.alerts()] == [("batch", VERSION_B)]


def test_what_is_delivered_again_is_counted_once(monitor: Monitor) -> None:
    events = [monitor.event(answer(1)), monitor.event(answer(2, VERSION_A, VERSION_B))]
    first, second = monitor.step.apply(events), monitor.step.apply(events)
    monitor.tick(3)

    assert (first.counts, second.counts) == ({"applied": 2}, {"redelivered": 2})
    assert monitor.alerts()[0].share == 0.5


def test_what_is_behind_the_window_is_left_out_and_old_buckets_go(monitor: Monitor) -> None:
    monitor.take(answer(0), answer(50))
    counts = monitor.step.apply([monitor.event(answer(700)), monitor.event(answer(90))]).counts

    assert counts == {"applied": 1, "too_old": 1}
    assert [start_ms - START_MS for (_, start_ms), _ in monitor.step._store.buckets()] == [700_000]


def test_a_clock_that_is_ahead_empties_no_window(monitor: Monitor) -> None:
    monitor.take(answer(1, VERSION_A, VERSION_B))
    ahead = monitor.event(answer(9_000))
    monitor.step.apply([RawEvent(ahead.topic, 0, ahead.offset, START_MS + 2_000, ahead.key, ahead.value, [])])
    monitor.tick(3)

    assert monitor.alerts()[0].occurred_at_ms == START_MS + 2_000


def test_bad_messages_are_turned_down_but_for_ranking_logs_which_somebody_else_turns_down(
    monitor: Monitor,
) -> None:
    bad = [
        RawEvent(topic, 0, 0, 0, b"k", b"{", [])
        for topic in ("ranking.logged.v1", "embeddings.counted.v1", "release.published.v1")
    ]
    result = monitor.step.apply(bad)

    assert [(one.event.topic, one.reason) for one in result.letters] == [
        ("embeddings.counted.v1", DeadLetterReason.DECODE_ERROR),
        ("release.published.v1", DeadLetterReason.DECODE_ERROR),
    ]
    assert result.counts == {"unreadable": 1, "dead_lettered": 2}
    assert monitor.step.positions([(one.topic, 0) for one in bad]) == {(one.topic, 0): 1 for one in bad}


def test_metrics_show_alerts_shares_and_versions_with_bounded_labels(monitor: Monitor) -> None:
    versions = [f"{number:064x}"[::-1] for number in range(12)]
    monitor.take(*(answer(1 + number / 100, version) for number, version in enumerate(versions)))
    monitor.tick(2)
    labels = {"tier": "realtime", "kind": "mixed_responses"}
    shown = {
        sample.labels["version"]: sample.value
        for metric in monitor.metrics.collect()
        for sample in metric.samples
        if sample.name == "skewless_skew_version_share" and sample.labels["kind"] == "mixed_responses"
    }
    monitor.take(answer(3, VERSION_A, VERSION_B))
    monitor.tick(3)
    active = monitor.metrics.get_sample_value("skewless_skew_alert_active", labels)
    since = monitor.metrics.get_sample_value("skewless_skew_alert_since_seconds", labels)
    monitor.take(answer(2_000))
    monitor.tick(2_000)
    after = monitor.metrics.get_sample_value("skewless_skew_share", labels)

    assert len(shown) == 9
    assert shown["other"] == pytest.approx(4 / 12)
    assert (active, since, after) == (1, START_MS / 1000 + 3, 0)


def test_a_process_that_does_not_see_every_partition_says_so(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    releases = [(RELEASE_PUBLISHED.name, 0)]
    monitor.step.owned([(RANKING_LOGGED.name, number) for number in range(8)] + releases)
    silent = caplog.text
    # The counts are cut up finer than the answers: their numbers say nothing of those.
    counts = [(EMBEDDINGS_COUNTED.name, number) for number in range(8)]
    monitor.step.owned([(RANKING_LOGGED.name, number) for number in range(4)] + releases + counts)

    assert silent == ""
    assert "partitions 4, 5, 6, 7" in caplog.text
