"""The three ways in which things go wrong here, named by what the caller does about them.

Anything else that is raised is a bug and stops the process.
"""

from enum import StrEnum


class DeadLetterReason(StrEnum):
    """Closed list of the reasons for which an event is dead-lettered (`x-dlq-reason`)."""

    DECODE_ERROR = "decode_error"
    SCHEMA_INVALID = "schema_invalid"
    UNKNOWN_VERSION = "unknown_version"
    TOO_LARGE = "too_large"
    KEY_MISMATCH = "key_mismatch"
    MODEL_ERROR = "model_error"
    NAN_EMBEDDING = "nan_embedding"
    FUTURE_EVENT = "future_event"


class InvalidMessage(Exception):
    """Never retry: this message goes to the dead-letter topic with its reason."""

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class RetryableError(Exception):
    """Try again with back-off: the input is fine, something around it is not (broker, disk, GPU memory)."""


class Refused(Exception):
    """We will not do this, and say why: what was expected, what came, what fixes it.

    `code` is stable and machine-readable; it becomes the metric label and the problem+json `type`.
    """

    def __init__(self, code: str, expected: str, came: str, fix: str) -> None:
        super().__init__(f"{code}: expected {expected}; came {came}. {fix}")
        self.code = code
        self.expected = expected
        self.came = came
        self.fix = fix
