"""The composition root of the Faust processes: settings in, steps and apps out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from schemas.errors import Refused
from schemas.skew import SkewAlerted
from schemas.topics import SKEW_ALERTED
from streams.attribution import AttributionStep
from streams.attribution_telemetry import AttributionTelemetry
from streams.impressions import ImpressionsStep
from streams.kafka import KafkaSettings
from streams.skew_monitor import SkewMonitorStep
from streams.skew_telemetry import SkewTelemetry
from streams.step_cluster import tie_to_cluster
from streams.step_driver import StepDriver, StepSurroundings
from streams.step_outlet import KafkaStepOutlet
from streams.step_source import KafkaStepSource
from streams.steps import Step
from streams.stream_telemetry import StreamTelemetry
from streams.topic_reader import TopicReader
from streams.topic_rows import newest_rows
from streams.window_store import WindowStore
from streams.windows import WindowSettings, WindowsStep
from streams.wire_format import WireFormats

from .clocks import now_ms
from .kafka_connection import kafka_settings
from .registry_connection import wire_formats
from .settings import Settings
from .step_rules import attribution_rules, skew_rules

if TYPE_CHECKING:
    from streams.app import App
    from streams.faust_loop import FaustLoop, LoopSettings

StepFactory = Callable[[Settings, Path, CollectorRegistry], Step]


def _windows(settings: Settings, folder: Path, metrics: CollectorRegistry) -> Step:
    rules = WindowSettings(clock=settings.windows_clock, dedupe_days=settings.windows_dedupe_days)
    return WindowsStep(WindowStore(folder), rules)


def _impressions(settings: Settings, folder: Path, metrics: CollectorRegistry) -> Step:
    return ImpressionsStep(folder, settings.impression_time)


def _attribution(settings: Settings, folder: Path, metrics: CollectorRegistry) -> Step:
    return AttributionStep(folder, attribution_rules(settings), AttributionTelemetry(metrics))


def _skew_monitor(settings: Settings, folder: Path, metrics: CollectorRegistry) -> Step:
    told = partial(alerts_told, settings)
    return SkewMonitorStep(folder, skew_rules(settings), SkewTelemetry(metrics), told)


def alerts_told(settings: Settings) -> list[SkewAlerted]:
    """The newest row of every skew alert; none without a broker or that topic. Raises RetryableError."""
    if not settings.kafka_bootstrap_servers:
        return []
    with TopicReader(kafka_settings(settings)) as reader:
        if SKEW_ALERTED.name not in reader.topics():
            return []
        found = [row for rows in newest_rows(reader, SKEW_ALERTED) for row in rows]
    return [row for row in found if isinstance(row, SkewAlerted)]


FACTORIES: dict[str, StepFactory] = {
    "windows": _windows,
    "impressions": _impressions,
    "attribution": _attribution,
    "skew_monitor": _skew_monitor,
}
"""Step name -> how it is made over its own directory."""


def steps(
    settings: Settings, worker: int = 0, only: Sequence[str] = (), metrics: CollectorRegistry | None = None
) -> list[Step]:
    """The steps (all of them, or `only` these) over this worker's state.

    Raises Refused for a name that is no step.
    """
    unknown = sorted(set(only) - set(FACTORIES))
    if unknown:
        raise Refused(
            "unknown_step",
            expected=f"steps out of {', '.join(FACTORIES)}",
            came=", ".join(unknown),
            fix="`skewless stream --help` says what each does.",
        )
    registry, folder = metrics or CollectorRegistry(), settings.stream_dir(worker)
    return [
        make(settings, folder / name, registry)
        for name, make in FACTORIES.items()
        if not only or name in only
    ]


@dataclass(frozen=True)
class StreamRun:
    """What one process runs: an app per step, each with its loop."""

    apps: "Sequence[App]"
    loops: "Sequence[FaustLoop]"
    drivers: Sequence[StepDriver]


@contextmanager
def stream_run(
    settings: Settings, worker: int, only: Sequence[str], metrics: CollectorRegistry
) -> Iterator[StreamRun]:
    """Open the state and make everything that runs; at the end the schema registry's client is closed.

    One app and one consumer group per step: a process that runs some of them shares the work with one
    that runs all, and a new step reads from the beginning without the others doing so.
    """
    from streams.faust_loop import LoopSettings  # noqa: PLC0415 - Faust takes a second to import

    kafka, folder = kafka_settings(settings), settings.stream_dir(worker)
    tie_to_cluster(kafka, folder)
    telemetry = StreamTelemetry(metrics)
    loop_settings = LoopSettings(
        frozen_seconds=kafka.session_timeout_ms / 1000, stall_seconds=settings.stream_stall_seconds
    )
    with wire_formats(settings) as formats:
        home = Home(folder, f"stream-{worker}", formats)
        made = [
            step_app(kafka, step, home, loop_settings, telemetry)
            for step in steps(settings, worker, only, metrics)
        ]
        yield StreamRun([one[0] for one in made], [one[1] for one in made], [one[2] for one in made])


@dataclass(frozen=True)
class Home:
    """Where a process keeps its state, what its dead letters call it, and how it reads framed messages."""

    folder: Path
    worker: str
    formats: WireFormats | None = None


def step_app(
    kafka: KafkaSettings,
    step: Step,
    home: Home,
    loop_settings: "LoopSettings",
    telemetry: StreamTelemetry,
) -> "tuple[App, FaustLoop, StepDriver]":
    """The app of one step, and what drives it."""
    from streams.app import AppSettings, build_app, group_of  # noqa: PLC0415
    from streams.faust_loop import FaustLoop  # noqa: PLC0415

    app_settings = AppSettings(home.folder / f"{step.name}-faust")
    group = group_of(app_settings.group, [step])
    around = StepSurroundings(
        outlet=KafkaStepOutlet(kafka, step.name, home.worker),
        source=KafkaStepSource(kafka, group),
        telemetry=telemetry,
        owned=lambda: loop.owned,
        now_ms=now_ms,
        formats=home.formats,
    )
    driver = StepDriver(step, around)
    loop = FaustLoop(driver, KafkaStepSource(kafka, group), telemetry, loop_settings)
    return build_app(kafka, [step], [loop], app_settings), loop, driver
