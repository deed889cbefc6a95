"""Tiers: slices of the inventory, each with a cadence and a policy of its own.

A Pin belongs to one tier for good: its bucket is a hash of its id, and every bucket is one tier's.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import Refused

BUCKETS = 100
"""Into so many equal parts the inventory is cut; a tier is a range of them."""

TierName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)]
TierPolicy = Literal["realtime", "batch"]
"""`realtime`: workers embed a Pin at every change. `batch`: `skewless embed` embeds all of them at once,
every so often; between two runs only their attributes change."""

VersionPolicy = Literal["enforce", "tolerate"]
"""`enforce`: one tower version in everything that is served. `tolerate`: mixed versions are served, and
labelled wherever they show; it exists to reproduce and measure what `enforce` makes impossible."""


class Tier(BaseModel):
    """One slice: the Pins whose bucket is in `[first_bucket, end_bucket)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: TierName
    policy: TierPolicy = "realtime"
    first_bucket: Annotated[int, Field(ge=0, lt=BUCKETS)] = 0
    end_bucket: Annotated[int, Field(ge=1, le=BUCKETS)] = BUCKETS


class Tiers(BaseModel):
    """All tiers of an installation: together they hold every bucket exactly once."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tiers: list[Tier]

    @model_validator(mode="after")
    def _every_bucket_once(self) -> Self:
        names = [tier.name for tier in self.tiers]
        if len(set(names)) != len(names):
            raise ValueError("two tiers have one name")
        upto = 0
        for tier in sorted(self.tiers, key=lambda one: one.first_bucket):
            if tier.first_bucket != upto or tier.end_bucket <= tier.first_bucket:
                raise ValueError(f"buckets from {upto} on are nobody's, or two tiers': see {tier.name}")
            upto = tier.end_bucket
        if upto != BUCKETS:
            raise ValueError(f"buckets from {upto} to {BUCKETS} are nobody's")
        return self

    def named(self, name: str) -> Tier:
        """The tier of this name. Raises Refused."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        known = ", ".join(tier.name for tier in self.tiers)
        fix = "Name one of those, or declare it in tiers.json."
        raise Refused("unknown_tier", f"one of the tiers {known}", name, fix)


def single_tier(name: str) -> Tiers:
    """The whole inventory as one realtime tier: what holds where nothing is declared."""
    return Tiers(tiers=[Tier(name=name)])


def read_tiers(path: Path, default: str) -> Tiers:
    """The declared tiers, or one of everything named `default` where the file is not there.

    The file is JSON: `{"tiers": [{"name": "realtime", "policy": "realtime", "first_bucket": 0,
    "end_bucket": 20}, {"name": "batch", "policy": "batch", "first_bucket": 20, "end_bucket": 100}]}`.
    Raises Refused for anything else.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return single_tier(default)
    except IsADirectoryError as error:
        raise Refused(
            "bad_tiers", "a file of tiers, or none", f"{path}: {error.strerror}", f"Mend {path}."
        ) from error
    try:
        return Tiers.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        example = json.dumps({"tiers": [{"name": default, "policy": "realtime"}]})
        raise Refused(
            "bad_tiers",
            f"tiers that hold each of {BUCKETS} buckets once, as in {example}",
            said,
            f"Mend {path}.",
        ) from error
