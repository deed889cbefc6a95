from pathlib import Path

from streams.skew_alerts import AlertState
from streams.skew_mix import Bucket, Move
from streams.skew_store import SkewStore, put_alert, put_bucket, put_moves, put_newest
from streams.step_store import Changes
from tests.streams.raw_events import ranking_log


def test_everything_is_there_after_a_restart_but_wall_clocks(tmp_path: Path) -> None:
    bucket, changes = Bucket(pins=3), Changes()
    bucket.add_answer(ranking_log(100))
    put_bucket(changes, ("a:b", 20_000), bucket)
    put_moves(changes, "a:b", [Move(1, "x"), Move(2, "y")])
    put_alert(changes, "a:b", "mixed_responses", AlertState(True, 5, 6, 7))
    put_newest(changes, 42)
    store = SkewStore(tmp_path)
    store.write(changes)
    store.close()
    again = SkewStore(tmp_path)

    assert list(again.buckets()) == [(("a:b", 20_000), bucket)]
    assert again.moves() == {"a:b": [Move(1, "x"), Move(2, "y")]}
    assert again.alerts() == {("a:b", "mixed_responses"): AlertState(True, 5, 6, None)}
    assert again.newest() == 42
    again.close()
