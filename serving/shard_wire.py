"""What root and leaf say to each other: one question, one answer, as Arrow streams.

Arrow and not JSON, because a dot product has to arrive with the bits that it was computed with: a rounded
one could change an order or a price.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from features.shard_slices import Shard
from schemas.errors import Refused

from .inventory import Described, Floats, LoggedPin, Rows

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
SEARCH_PATH = "/v1/shard/search"
READY_PATH = "/v1/shard/ready"
MAX_WIDTH = 100_000

_FACTS = b"skewless"
_QUESTION = pa.schema(
    {
        "release_id": pa.string(),
        "age_band": pa.int32(),
        "at_ms": pa.int64(),
        "width": pa.int32(),
        "query": pa.list_(pa.float32()),
        "spent_pins": pa.list_(pa.int64()),
        "spent_micros": pa.list_(pa.int64()),
    }
)
_ANSWER = pa.schema(
    {
        "dot": pa.float32(),
        "eligible": pa.bool_(),
        "pin_id": pa.int64(),
        "advertiser_id": pa.int64(),
        "bid_micros": pa.int64(),
        "daily_budget_micros": pa.int64(),
        "version_code": pa.uint8(),
        "fresh": pa.bool_(),
        "title": pa.string(),
        # One column and not four, which nobody looks at but for the few Pins that win.
        "logged": pa.list_(pa.int64(), len(LoggedPin._fields)),
    }
)


@dataclass(frozen=True)
class Question:
    """The best `width` Pins of one release for this vector, age band and moment."""

    release_id: str
    query: Floats
    age_band: int
    at_ms: int
    width: int
    spent_pins: Rows
    """Pins that the root saw run out of budget on the day of `at_ms`, and what each had spent by then."""
    spent_micros: Rows


class AnswerFacts(BaseModel):
    """What an answer says about itself as a whole. Who asked checks all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shard: int
    shards: int
    release_id: str
    tower_version: str
    versions: list[str]
    total: int
    dropped: dict[str, int]
    pins: int
    fresh_pins: int

    def is_of(self, shard: Shard) -> bool:
        """Whether this shard gave the answer."""
        return (self.shard, self.shards) == (shard.number, shard.shards)


@dataclass(frozen=True)
class Answer:
    """Found Pins, best first; row i of every part is the same Pin."""

    facts: AnswerFacts
    dots: Floats
    eligible: npt.NDArray[np.bool_]
    pins: Described
    titles: pa.StringArray
    logged: Rows
    """Fields of `LoggedPin`, shape (Pins, 4): with all that are found, as asking again for the few that win
    would cost another round trip, and could meet another view."""


def _malformed(what: str, error: Exception) -> Refused:
    fix = "Root and leaves run different versions of the program: deploy one to all of them."
    return Refused("malformed_message", f"{what} as an Arrow stream", f"{error}"[:200], fix)


def encode_question(question: Question) -> bytes:
    """One row."""
    columns = [
        pa.array([question.release_id]),
        pa.array([question.age_band], pa.int32()),
        pa.array([question.at_ms], pa.int64()),
        pa.array([question.width], pa.int32()),
        *(
            pa.ListArray.from_arrays(np.array([0, len(values)], np.int32), values)
            for values in (question.query, question.spent_pins, question.spent_micros)
        ),
    ]
    return _stream(pa.record_batch(columns, schema=_QUESTION))


def decode_question(body: bytes) -> Question:
    """Raises Refused for what is no question."""
    batch = _batch(body, _QUESTION, "a question")
    if batch.num_rows != 1:
        raise _malformed("a question", ValueError(f"{batch.num_rows} rows"))
    plain = {name: batch.column(name)[0].as_py() for name in ("release_id", "age_band", "at_ms", "width")}
    lists = {
        name: batch.column(name).flatten().to_numpy() for name in ("query", "spent_pins", "spent_micros")
    }
    question = Question(**plain, **lists)
    if len(question.spent_pins) != len(question.spent_micros):
        raise _malformed("a question", ValueError("spend of other Pins than are named"))
    if not (0 <= question.age_band <= 15 and 0 < question.width <= MAX_WIDTH):
        came = f"age band {question.age_band}, width {question.width}"
        raise _malformed("a question", ValueError(came))
    return question


def encode_answer(answer: Answer) -> bytes:
    """One row a Pin; the facts travel as the schema's metadata."""
    pins = answer.pins
    columns = [
        pa.array(answer.dots),
        pa.array(answer.eligible),
        pa.array(pins.pin_id),
        pa.array(pins.advertiser_id),
        pa.array(pins.bid_micros),
        pa.array(pins.daily_budget_micros),
        pa.array(pins.version_code),
        pa.array(pins.fresh),
        answer.titles,
        pa.FixedSizeListArray.from_arrays(answer.logged.ravel(), answer.logged.shape[1]),
    ]
    facts = orjson.dumps(answer.facts.model_dump())
    return _stream(pa.record_batch(columns, schema=_ANSWER.with_metadata({_FACTS: facts})))


def decode_answer(body: bytes) -> Answer:
    """Raises Refused for what is no answer."""
    batch = _batch(body, _ANSWER, "an answer")
    try:
        facts = AnswerFacts.model_validate_json((batch.schema.metadata or {})[_FACTS])
    except (ValidationError, KeyError) as error:
        raise _malformed("an answer", error) from error
    arrays: dict[str, Any] = {
        name: batch.column(name).to_numpy(zero_copy_only=False)
        for name in _ANSWER.names
        if name not in ("title", "logged")
    }
    logged = batch.column("logged").flatten()
    if logged.null_count:
        raise _malformed("an answer", ValueError("a value is missing"))
    if len(arrays["version_code"]) and int(arrays["version_code"].max()) >= len(facts.versions):
        raise _malformed("an answer", ValueError("a version code without a version"))
    dots, eligible = arrays.pop("dot"), arrays.pop("eligible")
    return Answer(
        facts=facts,
        dots=dots,
        eligible=eligible,
        pins=Described(**arrays),
        titles=batch.column("title"),
        logged=logged.to_numpy().reshape(-1, len(LoggedPin._fields)),
    )


def _stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _batch(body: bytes, schema: pa.Schema, what: str) -> pa.RecordBatch:
    """The one batch of a stream, with no value missing."""
    try:
        with pa.ipc.open_stream(body) as stream:
            batch = stream.read_next_batch()
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration) as error:
        raise _malformed(what, error) from error
    if not batch.schema.equals(schema):
        raise _malformed(what, ValueError(f"columns {batch.schema.names}"))
    if any(column.null_count for column in batch.columns):
        raise _malformed(what, ValueError("a value is missing"))
    return batch
