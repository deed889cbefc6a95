"""What the cutter of a tier said last about itself."""

import logging
from pathlib import Path

from pydantic import ValidationError

from schemas.statuses import CutterStatus

log = logging.getLogger(__name__)

KEPT_MISSED_HOURS = 168
"""A week of them."""


def read_cutter_status(path: Path) -> CutterStatus | None:
    """The last word of a cutter; None when there is none, or the file is no such thing."""
    try:
        return CutterStatus.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.warning("%s is passed over: %s", path, error.errors(include_url=False)[0]["msg"])
        return None
