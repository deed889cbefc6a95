"""`skewless schema`: what is on the topics, in the languages that other teams' tools read."""

from importlib.metadata import version
from typing import Annotated, Literal

import typer

from schemas.avro import avro_text
from schemas.codec import json_schema
from schemas.errors import Refused
from schemas.protobuf import proto_text
from schemas.topics import TOPICS, Topic

from .cli_options import Json
from .output import Output
from .settings import Settings

Format = Literal["json", "avro", "proto"]


def schema(
    topic: Annotated[
        str | None, typer.Argument(help="A topic, such as pin.changed.v1; none: list them.")
    ] = None,
    written: Annotated[
        Format, typer.Option("--format", help="JSON Schema, Avro schema or .proto file.")
    ] = "json",
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="All topics as one AsyncAPI 3.0 document (YAML).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the schema of a topic's messages, the AsyncAPI document of all, or list the topics.

    Example: skewless schema pin.changed.v1 --format avro > pin.changed.v1.avsc
    """
    if asyncapi:
        if topic is not None:
            raise typer.BadParameter("--asyncapi is about all topics: name none")
        _print_asyncapi(as_json)
    elif topic is None:
        _list_topics(as_json)
    elif topic not in TOPICS:
        raise Refused(
            "unknown_topic", f"one of {', '.join(TOPICS)}", repr(topic), "`skewless schema` lists them."
        )
    elif as_json and written == "proto":
        Output(True).data({"topic": topic, "proto": schema_text(TOPICS[topic], written)})
    else:
        typer.echo(schema_text(TOPICS[topic], written), nl=False)


def schema_text(topic: Topic, written: Format) -> str:
    """What `skewless schema TOPIC --format …` prints."""
    if written == "avro":
        return avro_text(topic.value)
    return proto_text(topic.value) if written == "proto" else json_schema(topic.value) + "\n"


def asyncapi_text(replicas: int) -> str:
    """What `skewless schema --asyncapi` prints. Raises Refused without PyYAML."""
    from schemas.asyncapi import asyncapi_document  # noqa: PLC0415 - keeps `--help` quick

    try:
        import yaml  # noqa: PLC0415 - not everybody's dependency
    except ModuleNotFoundError as missing:
        raise Refused(
            "yaml", "PyYAML", "none", "pip install pyyaml, or add --json: JSON is YAML too."
        ) from missing
    document = asyncapi_document(version("skewless"), replicas)
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return "# Written by `skewless schema --asyncapi`.\n" + text


def _print_asyncapi(as_json: bool) -> None:
    replicas = Settings.load().kafka_replication_factor
    if not as_json:
        typer.echo(asyncapi_text(replicas), nl=False)
        return
    from schemas.asyncapi import asyncapi_document  # noqa: PLC0415

    Output(True).data(asyncapi_document(version("skewless"), replicas))


def _list_topics(as_json: bool) -> None:
    Output(as_json).rows(
        "topics",
        [
            {
                "topic": one.name,
                "key": one.key,
                "partitions": one.partitions,
                "cleanup": "compact" if one.compacted else "delete",
                "what": one.doc,
            }
            for one in TOPICS.values()
        ],
    )


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command()(schema)
