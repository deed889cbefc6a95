"""A replay that is killed at a named point: `python -m tests.streams.replay_process ADDRESS POINT N`.

POINT is `put_back` or `mark`: SIGKILL comes right after the N-th call of it was acknowledged.
"""

import os
import signal
import sys
import time

from streams.kafka import KafkaSettings
from streams.letter_replay import GroupTurn, KafkaLetterSender, Replay, ReplayJob
from streams.letters import Letter, LetterFilter
from streams.topic_reader import TopicReader
from tests.streams.letters_on_a_topic import DLQ


class _Killed(KafkaLetterSender):
    def __init__(self, settings: KafkaSettings, point: str, calls: int) -> None:
        super().__init__(settings)
        self._point, self._left = point, calls

    def put_back(self, letter: Letter, partitions: int) -> None:
        super().put_back(letter, partitions)
        self._after("put_back")

    def mark(self, letter: Letter) -> None:
        super().mark(letter)
        self._after("mark")

    def _after(self, point: str) -> None:
        self._left -= point == self._point
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Replay the letters of pin.changed.v1 and die."""
    address, point, calls = sys.argv[1:]
    settings = KafkaSettings(bootstrap_servers=address, session_timeout_ms=6_000, heartbeat_interval_ms=500)
    job = ReplayJob("pin.changed.v1", LetterFilter(), now_ms=0)
    with TopicReader(settings) as reader:
        sender = _Killed(settings, point, int(calls))
        turn = GroupTurn(settings, DLQ, time.monotonic)
        Replay(reader, sender, turn, job, lambda *_: None).run()


if __name__ == "__main__":
    main()
