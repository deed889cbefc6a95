"""Every topic as an AsyncAPI 3.0 document: what is on it, how it is keyed and kept, who uses it."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

from .topics import (
    DEAD_LETTERED,
    DLQ_PARTITIONS,
    PIN_AGGREGATED,
    PIN_CHANGED,
    RANKING_LOGGED,
    RELEASE_PUBLISHED,
    TOPICS,
    WINDOW_SOURCES,
    Topic,
)

BINDING_VERSION = "0.5.0"

_COMPONENTS = "#/components"
_CLOUD_EVENT = {
    "ce_specversion": "CloudEvents version, 1.0",
    "ce_id": "with ce_source the event's name: the same pair again is a duplicate",
    "ce_source": "who published it",
    "ce_type": "the topic's name, major version included",
    "ce_time": "when it happened, ISO 8601",
    "content-type": "application/json",
}
_DEAD_LETTER = {
    "x-dlq-reason": "one word of a closed list, such as schema_invalid",
    "x-dlq-message": "what was wrong, in words",
    "x-dlq-topic": "where it came from",
    "x-dlq-partition": "its partition there",
    "x-dlq-offset": "its offset there",
    "x-dlq-timestamp": "the broker's time of it, in milliseconds since 1970",
    "x-dlq-stage": "which step turned it down",
    "x-dlq-attempts": "how often it was turned down so far, replays included",
    "x-dlq-worker": "which process turned it down",
    "x-dlq-model-version": "the tower version at work, where one was",
    "x-dlq-cut": "true where only the beginning was kept, because Kafka did not take it whole",
    "x-dlq-file": "of a line that was not shipped: the journal, in which its offset is counted in bytes",
    "x-dlq-replayed": "on a message that was put back: the letter; on a mark beside the letters: the letter's"
    " partition and offset",
    "x-dlq-place": "on a mark: topic, partition, offset and timestamp of the message that was put back",
}

_CLOUD_EVENTS = (PIN_CHANGED, PIN_AGGREGATED, *WINDOW_SOURCES, RANKING_LOGGED, RELEASE_PUBLISHED)
"""What other teams' producers and `skewless ship` write, with CloudEvents attributes in the headers."""

Action = Literal["send", "receive"]

OPERATIONS: dict[str, tuple[tuple[Action, str], ...]] = {
    "enrich": (
        ("receive", "pin.changed.v1"),
        ("receive", "pin.aggregated.v1"),
        ("send", "pin.features.v1"),
        ("receive", "pin.features.v1"),
        ("send", "state.checkpointed.v1"),
        ("receive", "state.checkpointed.v1"),
        ("send", "pin.embedded.v1"),
        ("send", "embeddings.counted.v1"),
    ),
    "snapshots": (("receive", "pin.embedded.v1"),),
    "ship": (("send", "ranking.logged.v1"), ("send", "release.published.v1")),
    "stream": (
        ("receive", "visit.observed.v1"),
        ("receive", "engagement.observed.v1"),
        ("send", "pin.aggregated.v1"),
        ("receive", "ranking.logged.v1"),
        ("send", "impression.served.v1"),
        ("receive", "impression.served.v1"),
        ("send", "impression.attributed.v1"),
        ("receive", "embeddings.counted.v1"),
        ("receive", "release.published.v1"),
        ("send", "skew.alerted.v1"),
    ),
    "embed": (("receive", "pin.features.v1"), ("receive", "state.checkpointed.v1")),
    "serve": (("receive", "pin.embedded.v1"), ("receive", "pin.features.v1")),
    "leaf": (("receive", "pin.embedded.v1"), ("receive", "pin.features.v1")),
}
"""Process (a command of `skewless`) → what it does with which topic. Dead letters follow from `receive`."""

_SENDERS = ("ship",)
"""They turn down what they were to send, as what it comes from is no topic."""

_READERS = ("embed", "serve", "leaf")
"""They pass over what they cannot read: another process has dead-lettered it."""


def asyncapi_document(version: str, replicas: int) -> dict[str, Any]:
    """The document as plain data. `version`: of the package; `replicas`: copies of each topic."""
    models = _models()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Skewless",
            "version": version,
            "description": "Topics of Skewless. Values are JSON; where a schema registry is configured, Avro"
            " and Protobuf in Confluent's wire format are read too. Unknown fields are ignored, and a field"
            " that is absent says nothing.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": _channels(replicas),
        "operations": _operations(),
        "components": {
            "schemas": _schemas(models),
            "messages": {model.__name__: _message(model) for model in models}
            | {"DeadLetter": _dead_letter_message()},
        },
    }


def _models() -> list[type[BaseModel]]:
    return [topic.value for topic in TOPICS.values()]


def _channels(replicas: int) -> dict[str, Any]:
    topics = {topic.name: _channel(topic, replicas) for topic in TOPICS.values()}
    letters = {topic.dlq: _letters_channel(topic, replicas) for topic in DEAD_LETTERED}
    return topics | letters


def _channel(topic: Topic, replicas: int) -> dict[str, Any]:
    name = topic.value.__name__
    kept = (
        {"cleanup.policy": ["compact"]}
        if topic.compacted
        else {
            "cleanup.policy": ["delete"],
            "retention.ms": topic.retention_ms,
        }
    )
    return {
        "address": topic.name,
        "description": topic.doc,
        "messages": {name: {"$ref": f"{_COMPONENTS}/messages/{name}"}},
        "bindings": _bindings(topic.partitions, replicas, kept),
    }


def _letters_channel(topic: Topic, replicas: int) -> dict[str, Any]:
    return {
        "address": topic.dlq,
        "description": f"messages of {topic.name} that can never be processed, as they came",
        "messages": {"DeadLetter": {"$ref": f"{_COMPONENTS}/messages/DeadLetter"}},
        "bindings": _bindings(DLQ_PARTITIONS, replicas, {"cleanup.policy": ["delete"], "retention.ms": -1}),
    }


def _bindings(partitions: int, replicas: int, configuration: dict[str, Any]) -> dict[str, Any]:
    return {
        "kafka": {
            "partitions": partitions,
            "replicas": replicas,
            "topicConfiguration": configuration,
            "bindingVersion": BINDING_VERSION,
        }
    }


def _operations() -> dict[str, Any]:
    done = {
        f"{process}.{action}.{topic}": _operation(process, action, topic, TOPICS[topic].value.__name__)
        for process, actions in OPERATIONS.items()
        for action, topic in actions
    }
    letters = {
        f"{process}.send.{TOPICS[topic].dlq}": _operation(process, "send", TOPICS[topic].dlq, "DeadLetter")
        for process, actions in OPERATIONS.items()
        if process not in _READERS
        for action, topic in actions
        if (action == "receive" or process in _SENDERS) and TOPICS[topic] in DEAD_LETTERED
    }
    return done | letters


def _operation(process: str, action: Action, channel: str, message: str) -> dict[str, Any]:
    return {
        "action": action,
        "summary": f"`skewless {process}` {action}s it",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _schemas(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=f"{_COMPONENTS}/schemas/{{model}}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    headers = {"CloudEventHeaders": _headers(_CLOUD_EVENT), "DeadLetterHeaders": _headers(_DEAD_LETTER)}
    return dict(sorted(found.items())) | headers


def _headers(docs: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": doc} for name, doc in docs.items()},
    }


def _message(model: type[BaseModel]) -> dict[str, Any]:
    topic = next(topic for topic in TOPICS.values() if topic.value is model)
    headers = (
        {"headers": {"$ref": f"{_COMPONENTS}/schemas/CloudEventHeaders"}} if topic in _CLOUD_EVENTS else {}
    )
    return {
        "name": model.__name__,
        "summary": (model.__doc__ or "").split("\n")[0],
        "contentType": "application/json",
        **headers,
        "payload": {"$ref": f"{_COMPONENTS}/schemas/{model.__name__}"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": f"{topic.key}, as ASCII text; hashed with murmur2"},
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _dead_letter_message() -> dict[str, Any]:
    return {
        "name": "DeadLetter",
        "summary": "The original key and bytes, and the original headers behind the ones that tell why.",
        "contentType": "application/octet-stream",
        "headers": {"$ref": f"{_COMPONENTS}/schemas/DeadLetterHeaders"},
        "payload": {},
    }
