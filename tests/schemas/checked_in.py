"""The schemas that are checked in, and what writes them: `make schemas`.

`tests/fixtures/schemas/<topic>.{json,avsc,proto}` are the present ones, which other teams' tools read.
`tests/fixtures/schemas/released/` holds those of the last release; at a release the present ones are
copied there. `field_numbers.json` only ever grows.
"""

import json
from pathlib import Path
from typing import get_args

from entrypoints.cli_schema import Format, asyncapi_text, schema_text
from entrypoints.settings import Settings
from schemas.field_numbers import FIELD_NUMBERS
from schemas.topics import TOPICS

ROOT = Path(__file__).parent.parent.parent
SCHEMAS = ROOT / "tests" / "fixtures" / "schemas"
RELEASED = SCHEMAS / "released"
NUMBERS = SCHEMAS / "field_numbers.json"
ASYNCAPI = ROOT / "docs" / "asyncapi.yaml"

FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"json": "json", "avro": "avsc", "proto": "proto"}


def present() -> dict[Path, str]:
    """Path → text of every file that follows from the declarations."""
    texts = {
        SCHEMAS / f"{topic.name}.{SUFFIXES[written]}": schema_text(topic, written)
        for topic in TOPICS.values()
        for written in FORMATS
    }
    replicas = Settings.model_fields["kafka_replication_factor"].default
    return texts | {ASYNCAPI: asyncapi_text(replicas)}


def main() -> None:
    """Rewrite them, and add new field numbers to the frozen copy."""
    for path, text in present().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    frozen = json.loads(NUMBERS.read_text("utf-8")) if NUMBERS.exists() else {}
    for message, numbers in FIELD_NUMBERS.items():
        frozen.setdefault(message, {}).update(
            {name: number for name, number in numbers.items() if name not in frozen.get(message, {})}
        )
    NUMBERS.write_text(json.dumps(frozen, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
