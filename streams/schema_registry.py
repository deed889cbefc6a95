"""The schema registry that writers' schemas come from, over its REST protocol."""

from collections.abc import Callable
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from schemas.errors import DeadLetterReason, InvalidMessage, Refused, RetryableError
from schemas.transport import masked, remote_hosts

from .registry_extra import require_extra
from .wire_format import WriterSchema

UNKNOWN_FOR_SECONDS = 10.0
"""How long an id that the registry does not know is not asked for again."""
MAX_UNKNOWN = 10_000
MAX_REFERENCES = 100
_IDS = 2**31
"""A registry's ids are 32 bits with a sign: for what is above it answers 404 as for a wrong address."""

Clock = Callable[[], float]


class RegistrySettings(BaseModel):
    """Where the registry is and how to get in. `repr` masks the password.

    Raises Refused for an address that is none, that holds a password, or that is unencrypted and leads to
    another host, unless `allow_plaintext`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str
    username: str | None = None
    password: SecretStr | None = None
    ca_location: str | None = None
    allow_plaintext: bool = False
    timeout_seconds: float = 5.0

    @model_validator(mode="after")
    def _safe_address(self) -> Self:
        address = urlsplit(self.url)
        if address.username or address.password:
            raise Refused(
                "registry_url",
                expected="an address without user and password, which would be printed with it",
                came=f"{address.scheme}://***@{address.hostname}",
                fix="Set SKEWLESS_SCHEMA_REGISTRY_USERNAME and _PASSWORD.",
            )
        if address.scheme not in ("https", "http", "mock") or "," in self.url:
            raise Refused(
                "registry_url",
                "an address such as https://registry:8081",
                repr(masked(self.url)),
                "Set one address.",
            )
        if ":" in (self.username or ""):
            raise Refused("registry_url", "a user name without a colon", "one with", "Choose another user.")
        # A port so that a bare IPv6 address is not cut at its last colon.
        remote = remote_hosts(f"[{address.hostname}]:0")
        if address.scheme == "http" and remote and not self.allow_plaintext:
            raise Refused(
                "registry_plaintext",
                expected="https to a host that is not this one",
                came=f"http to {remote[0]}",
                fix="Use https, or set SKEWLESS_SCHEMA_REGISTRY_ALLOW_PLAINTEXT=true.",
            )
        return self


def registry_client(settings: RegistrySettings) -> Any:
    """confluent_kafka's SchemaRegistryClient. It does not retry: our callers do, in place and for ever.

    Raises Refused when the registry extra is not installed or the CA file is not there.
    """
    with require_extra():
        from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415 - an optional extra
    config: dict[str, Any] = {"url": settings.url, "timeout": settings.timeout_seconds, "max.retries": 0}
    if settings.username is not None:
        password = settings.password.get_secret_value() if settings.password else ""
        config["basic.auth.user.info"] = f"{settings.username}:{password}"
    if settings.ca_location is not None:
        config["ssl.ca.location"] = settings.ca_location
    try:
        return SchemaRegistryClient.new_client(config)
    except OSError as error:
        raise Refused(
            "registry_ca",
            "a file of CA certificates",
            f"{settings.ca_location}: {error}",
            "Correct its path.",
        ) from error


class ConfluentRegistry:
    """`SchemaSource` over a registry client. `clock`: seconds, monotonic."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._unknown: dict[int, float] = {}

    def schema(self, schema_id: int) -> WriterSchema:
        """The schema of this id with what it refers to.

        Raises InvalidMessage (unknown_version) when the registry says that there is none, Refused when it
        does not let us in, RetryableError for everything else that goes wrong there.
        """
        if schema_id >= _IDS or self._unknown.get(schema_id, float("-inf")) > self._clock():
            raise _unknown_schema(schema_id)
        try:
            # Protobuf comes as a descriptor then; for the other kinds this asks for nothing.
            found = self._client.get_schema(schema_id, fmt="serialized")
            references: dict[str, str] = {}
            self._collect(found, references)
            return WriterSchema(found.schema_type or "AVRO", found.schema_str, tuple(references.items()))
        except Exception as error:  # the HTTP client's errors are not ours to list
            self._explain(schema_id, error)

    def _collect(self, schema: Any, references: dict[str, str]) -> None:
        """Texts of what `schema` refers to, each before what refers to it."""
        for one in schema.references or ():
            if one.name in references:
                continue
            if len(references) >= MAX_REFERENCES:
                raise InvalidMessage(
                    DeadLetterReason.UNKNOWN_VERSION, f"a schema with over {MAX_REFERENCES} references"
                )
            found = self._client.get_version(one.subject, one.version, fmt="serialized").schema
            self._collect(found, references)
            references[one.name] = found.schema_str

    def _explain(self, schema_id: int, error: Exception) -> NoReturn:
        # NOTE: nothing that the server said is repeated: it may echo the credentials that it was sent.
        status, code = getattr(error, "http_status_code", None), getattr(error, "error_code", None)
        if isinstance(error, InvalidMessage | RecursionError):
            raise InvalidMessage(DeadLetterReason.UNKNOWN_VERSION, f"schema {schema_id}: {error}") from None
        # A bare 404 is no answer about a schema, but a wrong address: the codes 404xx are the registry's.
        if status == 404 and isinstance(code, int) and 40400 <= code < 40500:
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema_id] = self._clock() + UNKNOWN_FOR_SECONDS
            raise _unknown_schema(schema_id) from None
        if status in (401, 403):
            raise Refused(
                "registry_credentials",
                expected="a user whom the schema registry lets read schemas",
                came=f"HTTP {status}",
                fix="Set SKEWLESS_SCHEMA_REGISTRY_USERNAME and _PASSWORD.",
            ) from None
        what = f"HTTP {status}" if status is not None else type(error).__name__
        raise RetryableError(f"the schema registry does not answer: {what}") from None

    def close(self) -> None:
        """End its connections."""
        self._client.close()


def _unknown_schema(schema_id: int) -> InvalidMessage:
    return InvalidMessage(DeadLetterReason.UNKNOWN_VERSION, f"the schema registry has no schema {schema_id}")
