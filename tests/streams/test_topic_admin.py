"""What `skewless topics` makes of a broker that is slow, or says no, when it creates topics."""

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # public, but not in __all__

from schemas.errors import Refused, RetryableError
from streams import topic_admin


class _Admin:
    """A cluster that answers for each topic with what is prepared for it, or never."""

    def __init__(self, **answers: BaseException | None) -> None:
        self._answers = answers
        self.operation_timeout = 0.0

    def create_topics(self, topics: list[NewTopic], operation_timeout: float) -> dict[str, Future[Any]]:
        self.operation_timeout = operation_timeout
        return {topic.topic: _answer(self._answers[topic.topic]) for topic in topics if topic.topic}


def _answer(why: BaseException | None) -> Future[Any]:
    answer: Future[Any] = Future()
    if why is None:
        answer.set_result(None)
    else:
        answer.set_exception(why)
    return answer


def _create(admin: Any, *names: str) -> list[str]:
    return topic_admin.create(admin, [NewTopic(name, 1) for name in names])


def _error(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


@pytest.mark.parametrize(
    ("why", "kind", "said"),
    [
        (_error(KafkaError.TOPIC_AUTHORIZATION_FAILED), Refused, "give this user the right"),
        (_error(KafkaError.CLUSTER_AUTHORIZATION_FAILED), Refused, "give this user the right"),
        (_error(KafkaError.POLICY_VIOLATION), Refused, "as the broker takes it"),
        (_error(KafkaError.INVALID_REPLICATION_FACTOR), Refused, "REPLICATION_FACTOR"),
        (_error(KafkaError.REQUEST_TIMED_OUT), RetryableError, "has not created late"),
        (_error(KafkaError.NOT_CONTROLLER), RetryableError, "has not created late"),
        (_error(KafkaError._TIMED_OUT), RetryableError, "has not created late"),
        (TimeoutError(), RetryableError, "whether it has created late"),
    ],
)
def test_a_topic_that_is_not_created_is_no_traceback_and_slowness_no_missing_right(
    why: BaseException, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as raised:
        _create(_Admin(early=None, late=why), "early", "late")

    assert "right" not in str(raised.value) or "AUTHORIZATION" in str(why)


def test_a_topic_that_another_process_has_created_meanwhile_is_not_among_the_created() -> None:
    admin = _Admin(ours=None, theirs=_error(KafkaError.TOPIC_ALREADY_EXISTS))

    assert _create(admin, "ours", "theirs") == ["ours"]


def test_the_answer_is_waited_for_longer_than_the_broker_may_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def result(self: Future[Any], timeout: float) -> None:
        waited.append(timeout)

    monkeypatch.setattr(Future, "result", result)
    admin = _Admin(ours=None)
    _create(admin, "ours")

    assert waited[0] > admin.operation_timeout > 0
