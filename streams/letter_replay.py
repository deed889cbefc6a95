"""Putting dead letters back on their source topics, each at most once.

A letter's message is produced to the partition that it belongs on and acknowledged; then a mark that names
the letter is produced beside it and acknowledged; then comes the next one. Whoever reads the letters passes
over marked ones. Replays of one topic take turns, by the partitions of a consumer group, so two at once
never put back the same letter. What can be put back twice is one letter: that whose mark was not written
yet when its replay was killed, or stood still for longer than the group's session timeout.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.errors import Refused, RetryableError

from .dead_letters import ATTEMPTS, PLACE, REPLAYED, Headers
from .kafka import KafkaSettings, consumer_config, producer_config
from .letters import Letter, LetterFilter, Origin, Reading, goes_back_to, read_letters, would_fail_again
from .topic_reader import TopicReader

log = logging.getLogger(__name__)

Result = Literal["replayed", "would_replay", "already_replayed", "would_fail"]

_CRITICAL = 2
_DELIVERY_TIMEOUT_MS = 60_000
_WAIT_SECONDS = 0.1
_NO_RIGHT = (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED)


class LetterSender(Protocol):
    """Where letters are put back; each call returns when the broker has acknowledged it."""

    def put_back(self, letter: Letter, partitions: int) -> None:
        """Put the message on its source topic, which has so many partitions."""
        ...

    def mark(self, letter: Letter) -> None:
        """Say, beside the letter, that it was put back."""
        ...


class KafkaLetterSender:
    """Produces one message at a time. Raises RetryableError when the broker does not take one."""

    def __init__(self, settings: KafkaSettings) -> None:
        overrides = {"linger.ms": 0, "delivery.timeout.ms": _DELIVERY_TIMEOUT_MS, "log_level": _CRITICAL}
        self._producer = Producer(producer_config(settings, overrides), logger=log)

    def put_back(self, letter: Letter, partitions: int) -> None:
        """See `LetterSender`. Where `goes_back_to` leaves it to the key, the producer hashes with murmur2."""
        where = goes_back_to(letter, partitions)
        came_from = f"{letter.dlq_topic}/{letter.partition}/{letter.offset}"
        story: Headers = [(REPLAYED, came_from.encode()), (ATTEMPTS, b"%d" % letter.attempts)]
        self._send(letter.topic, letter.key, letter.value, story + letter.headers, where)

    def mark(self, letter: Letter) -> None:
        """See `LetterSender`."""
        place = f"{letter.partition}/{letter.offset}".encode()
        # NOTE: on the letter's own partition, so that a mark is never evicted before its letter.
        headers: Headers = [(REPLAYED, place)]
        if letter.origin is not None:
            headers.append((PLACE, "/".join(map(str, letter.origin)).encode()))
        self._send(letter.dlq_topic, place, b"", headers, letter.partition)

    def _send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, partition: int
    ) -> None:
        answers: list[KafkaError | None] = []

        def answered(error: KafkaError | None, _: Message) -> None:
            answers.append(error)

        taken: Any = headers  # The stubs want the values to be no `None`, which librdkafka takes.
        try:
            self._producer.produce(topic, value, key, partition, answered, headers=taken)
            while not answers:
                self._producer.poll(_WAIT_SECONDS)
        except KafkaException as error:
            raise RetryableError(f"{topic}: {error.args[0].str()}") from error
        if answers[0] is not None:
            raise RetryableError(f"{topic}: {answers[0].str()}; run the replay again, it goes on from here")


class Turn(Protocol):
    """Whose turn it is to replay one topic's letters."""

    def wait(self) -> None:
        """Return when it is ours.

        Raises RetryableError when another replay keeps it, Refused where the broker does not let us in.
        """
        ...

    def held(self) -> int:
        """A number that changes whenever the turn was lost in between; 0 while it is another's.

        To be called at least every few seconds: whoever stands still for longer loses the turn.
        """
        ...


class GroupTurn:
    """The turn is partition 0 of the dead-letter topic in a consumer group of its own: Kafka gives it to one.

    A killed holder's turn is free after the session timeout. Close it, and it is free at once.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        dlq_topic: str,
        clock: Callable[[], float],
        patience_seconds: float = 60.0,
    ) -> None:
        """`clock`: seconds that go on while this process stands still, the same in all replays of a host."""
        self._topic, self._clock, self._patience_seconds = dlq_topic, clock, patience_seconds
        self._stalled_after_seconds = settings.session_timeout_ms / 2000
        # NOTE: member ids start with the client id, and the range assignor sorts by them: who came first
        # keeps partition 0 when another comes. Only for politeness; nothing rests on it.
        overrides = {"client.id": f"replay-{int(clock() * 1000):015d}", "log_level": _CRITICAL}
        self._consumer = Consumer(
            consumer_config(settings, f"skewless-replay-{dlq_topic}", overrides), logger=log
        )
        self._turns, self._ours, self._contact = 0, False, clock()
        self._error: KafkaError | None = None
        """The last one that the broker or the client had to say."""
        self._join()

    def _join(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_gone, on_lost=self._on_gone
        )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        # The group is a lock; what is on the topic is read elsewhere.
        consumer.pause(partitions)
        if any(one.partition == 0 for one in partitions):
            self._turns, self._ours = self._turns + 1, True

    def _on_gone(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._ours = False

    def wait(self) -> None:
        """See `Turn`."""
        deadline = self._clock() + self._patience_seconds
        while not self.held():
            if self._clock() > deadline:
                said = f"; the last error was: {self._error.str()}" if self._error else ""
                raise RetryableError(
                    f"another replay of {self._topic} is at work: wait for it, or end it{said}"
                )
            self._poll(_WAIT_SECONDS)

    def _poll(self, seconds: float) -> None:
        message = self._consumer.poll(seconds)
        self._error = (message and message.error()) or self._error
        if self._error is not None and self._error.code() in _NO_RIGHT:
            raise Refused(
                "kafka_group",
                expected=f"READ on group skewless-replay-* and on {self._topic}",
                came=self._error.str(),
                fix="Give this user both rights.",
            )

    def held(self) -> int:
        """See `Turn`."""
        now = self._clock()
        if self._ours and now - self._contact > self._stalled_after_seconds:
            # The group may have given it away meanwhile, and not be able to tell us at once.
            log.warning("stood still for %.1f s: taking the turn anew", now - self._contact)
            self._ours = False
            self._consumer.unsubscribe()
            self._join()
        self._poll(0)
        self._contact = self._clock()
        return self._turns if self._ours else 0

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()


@dataclass(frozen=True)
class ReplayJob:
    """What to put back: letters of one source topic that the filter takes, at most `limit` of them.

    With `force` also those that the present schema turns down again; never one that was not kept whole.
    """

    topic: str
    wanted: LetterFilter
    now_ms: int
    limit: int | None = None
    force: bool = False

    def judge(self, letter: Letter) -> tuple[Result, str]:
        """What is to become of a letter that is meant, and why."""
        if letter.replayed:
            return "already_replayed", ""
        why = would_fail_again(letter)
        if why is not None and not (self.force and letter.whole):
            return "would_fail", why
        return "would_replay", ""


@dataclass
class ReplayCounts:
    """What became of the letters that are meant."""

    replayed: int = 0
    would_replay: int = 0
    already_replayed: int = 0
    would_fail: int = 0

    def add(self, result: Result) -> None:
        """One more."""
        setattr(self, result, getattr(self, result) + 1)


@dataclass
class _PutBack:
    """The messages of the letters that one pass has put back, or would have."""

    origins: set[Origin] = field(default_factory=set)

    def again(self, letter: Letter) -> Letter:
        """The letter, told to be replayed when another one of its message was."""
        return replace(letter, replayed=letter.replayed or letter.origin in self.origins)

    def add(self, letter: Letter) -> None:
        if letter.origin is not None:
            self.origins.add(letter.origin)


Notice = Callable[[Letter, Result, str], None]
"""Told what became of each letter that is meant."""


def rehearse(reader: TopicReader, job: ReplayJob, on_letter: Notice) -> ReplayCounts:
    """What a `Replay` would do, without doing it."""
    counts, back = ReplayCounts(), _PutBack()
    for one in read_letters(reader, job.topic):
        letter = back.again(one)
        if job.wanted.takes(letter, job.now_ms):
            result, why = job.judge(letter)
            counts.add(result)
            if result == "would_replay":
                back.add(letter)
            on_letter(letter, result, why)
        if counts.would_replay == job.limit:
            break
    return counts


@dataclass
class Replay:
    """One run over the letters of a topic. `on_letter` is told of the letters put back, as they are."""

    reader: TopicReader
    sender: LetterSender
    turn: Turn
    job: ReplayJob
    on_letter: Notice
    on_progress: Callable[[Reading], None] = lambda _: None
    counts: ReplayCounts = field(default_factory=ReplayCounts)

    def run(self) -> ReplayCounts:
        """Put the letters back that the job names, and mark them. Running it again does no harm.

        Raises RetryableError when the broker is away or another replay is at work: run it again.
        """
        partitions = self.reader.topics().get(self.job.topic, 0)
        while True:
            self.turn.wait()
            self.counts = ReplayCounts(replayed=self.counts.replayed)
            if self._pass(partitions):
                return self.counts

    def _pass(self, partitions: int) -> bool:
        """Returns False when another replay had the turn meanwhile: its marks have to be read first."""
        mine, back = self.turn.held(), _PutBack()
        for one in read_letters(self.reader, self.job.topic, reading=Reading(notice=self._read)):
            letter = back.again(one)
            if not self.job.wanted.takes(letter, self.job.now_ms):
                continue
            result, _ = self.job.judge(letter)
            if result != "would_replay":
                self.counts.add(result)
                continue
            if self.counts.replayed == self.job.limit:
                return True
            if not mine or self.turn.held() != mine:
                return False
            self.sender.put_back(letter, partitions)
            self.sender.mark(letter)
            back.add(letter)
            self.counts.add("replayed")
            self.on_letter(letter, "replayed", "")
        return True

    def _read(self, reading: Reading) -> None:
        """A long reading must not cost the turn."""
        self.turn.held()
        self.on_progress(reading)
