"""A candidate tower may be as broken as it likes: snapshots and releases of the serving one go on."""

from pathlib import Path

import pytest

from entrypoints.releasing import Releaser
from entrypoints.settings import Settings
from entrypoints.store_connection import release_store
from index.gates import Candidate
from models.live_towers import write_live_towers
from schemas.codec import encode
from schemas.embeddings import embedded_key
from schemas.manifests import CheckResult, ReleaseManifest, TowerManifest
from schemas.vectors import encode_fp16
from streams.cut_policy import EventTimeCut
from streams.cutter import Cutter, CutterSettings, CutterSurroundings
from tests.entrypoints.world import HOUR_MS, cut, save_hot_tower, save_tower
from tests.schemas.examples import pin_embedded
from tests.streams.embedded_rows_on_a_topic import Letterbox, MemoryTopic

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(data_dir=tmp_path)


def _live(settings: Settings) -> ReleaseManifest:
    live = release_store(settings).comparable_live()
    assert live is not None
    return live


@pytest.fixture
def hot(settings: Settings) -> tuple[TowerManifest, TowerManifest]:
    """Tower A serves a release; candidate B embeds every query as infinity."""
    towers = save_tower(settings.data_dir, seed=1), save_hot_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [one.tower_version for one in towers])
    Releaser(settings)(cut(settings.data_dir, towers[0], 30))
    return towers


def test_a_candidate_whose_queries_are_no_numbers_is_refused_and_the_release_stays(
    settings: Settings, hot: tuple[TowerManifest, TowerManifest], caplog: pytest.LogCaptureFixture
) -> None:
    Releaser(settings)(cut(settings.data_dir, hot[1], 30))

    assert _live(settings).tower_version == hot[0].tower_version
    assert "not_finite" in caplog.text


def test_a_cutter_that_starts_over_a_bad_candidate_s_snapshot_goes_on_cutting_the_serving_tower(
    settings: Settings, hot: tuple[TowerManifest, TowerManifest]
) -> None:
    cut(settings.data_dir, hot[1], 30)
    topic = MemoryTopic()
    later_ms = HOUR_MS + 3_600_000
    message = pin_embedded(
        pin_id=1,
        tower_version=hot[0].tower_version,
        vector=encode_fp16([1.0] + [0.0] * (hot[0].dimension - 1)),
        changed_offset=5,
        occurred_at_ms=later_ms,
        ingested_at_ms=later_ms,
    )
    topic.put(embedded_key(1, hot[0].tower_version), encode(message))
    around = CutterSurroundings(
        live=lambda: hot, clock_ms=lambda: later_ms, outlet=Letterbox(), on_snapshot=Releaser(settings)
    )
    cutter = Cutter(topic, CutterSettings(settings.snapshots_dir), EventTimeCut(), around)

    cutter.start()
    cutter.step()
    cutter.cut()

    assert (_live(settings).tower_version, _live(settings).hour_ms) == (hot[0].tower_version, later_ms)


class Broken:
    """A gate that fails in a way that nobody has thought of."""

    name = "broken"

    def __call__(self, candidate: Candidate) -> CheckResult:
        raise ZeroDivisionError(self.name)


def test_what_goes_wrong_with_a_candidate_ends_no_cutter_and_what_does_with_the_serving_tower_is_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    serving, candidate = save_tower(settings.data_dir, seed=1), save_tower(settings.data_dir, seed=2)
    write_live_towers(settings.towers_dir, [serving.tower_version, candidate.tower_version])

    Releaser(settings, [Broken()])(cut(settings.data_dir, candidate, 30))
    assert "ZeroDivisionError: broken" in caplog.text

    with pytest.raises(ZeroDivisionError):
        Releaser(settings, [Broken()])(cut(settings.data_dir, serving, 30))
