import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from schemas.errors import Refused
from schemas.file_locks import held_alone, is_held, locked

ROOT = Path(__file__).parents[2]
REFUSAL = Refused("running", "nobody else", "somebody", "wait")


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    assert not is_held(path)
    with held_alone(path, REFUSAL):
        assert is_held(path)
        with pytest.raises(Refused) as refused, held_alone(path, REFUSAL):
            pass
        assert refused.value is REFUSAL
    assert not is_held(path)


def test_who_only_looks_is_not_taken_for_a_holder(tmp_path: Path) -> None:
    path, got = tmp_path / ".lock", threading.Event()
    path.touch()

    def hold() -> None:
        with held_alone(path, REFUSAL):
            got.set()

    with path.open("r") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # what `is_held` does, for longer
        assert not is_held(path)
        thread = threading.Thread(target=hold)
        thread.start()
    thread.join(10)

    assert got.is_set()


def test_who_waits_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", list[str]()

    def second() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join(10)

    assert order == ["first", "second"]


def test_a_process_that_is_killed_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from schemas.file_locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_held(path)
        process.kill()
        process.wait(10)

    assert not is_held(path)
