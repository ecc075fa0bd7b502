"""The envelope of every control message: CloudEvents 1.0, structured JSON mode. Pure: time and ids are inputs.

Beside CloudEvents' own attributes it carries, as extension attributes: ``correlationid`` (the conversation),
``causationid`` (the message that caused this one), ``traceparent`` (W3C Trace Context, level 1), ``schemaversion``
(of the body) and ``deadline`` (after which the message is worth nothing).
Source: CloudEvents 1.0.2, JSON event format 1.0.2.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime
from functools import cache
from typing import Annotated, Generic, Literal, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from shared.errors import VmportError
from shared.messages.base import MAX_COUNT, MESSAGE_TYPES, Message, Timestamp
from shared.parties import Party, PartyName

CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "vmport."
MAX_BODY_BYTES = 4 * 1024 * 1024
"""A control message that is larger is refused before it is parsed; the largest honest one holds two domain XMLs."""

SchemaVersion = Annotated[int, Field(ge=-MAX_COUNT, le=MAX_COUNT)]
"""Any number that can be repeated in a refusal; a reader knows one."""
TRACEPARENT_PATTERN = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"

M_co = TypeVar("M_co", bound=Message, covariant=True)


class MessageError(VmportError):
    """A message cannot be understood. ``code`` says why, in the words that metrics and dead letters use."""

    code = "invalid_message"

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}")


class Envelope(BaseModel, Generic[M_co]):
    """A message on its way. ``data`` is the typed body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specversion: Literal["1.0"] = "1.0"
    id: UUID
    source: PartyName
    type: str
    subject: str | None = Field(default=None, max_length=200, description="The port or VM that this is about.")
    time: Timestamp
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: str
    schemaversion: SchemaVersion
    correlationid: UUID
    causationid: UUID | None = None
    traceparent: Annotated[str, Field(pattern=TRACEPARENT_PATTERN)]
    deadline: Timestamp | None = None
    data: SerializeAsAny[M_co]

    @property
    def sender(self) -> Party:
        """The party that `source` names."""
        return Party.parse(self.source)

    def expired(self, now: datetime) -> bool:
        """Whether the message is worth nothing any more."""
        return self.deadline is not None and now > self.deadline

    def to_json(self) -> bytes:
        """The bytes on the wire."""
        return self.model_dump_json(exclude_none=True).encode()


AnyEnvelope = Envelope[Message]


def new_traceparent() -> str:
    """A W3C traceparent that starts a trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_traceparent(parent: str) -> str:
    """The same trace, a new span."""
    version, trace_id, _, flags = parent.split("-")
    return f"{version}-{trace_id}-{secrets.token_hex(8)}-{flags}"


def schema_urn(message: type[Message]) -> str:
    """The name of a body's schema, as it stands in ``dataschema``."""
    return f"urn:vmport:schema:{message.__name__}:{message.VERSION}"


def seal(
    message: Message,
    *,
    source: Party,
    message_id: UUID,
    now: datetime,
    cause: AnyEnvelope | None = None,
    correlation_id: UUID | None = None,
    deadline: datetime | None = None,
) -> AnyEnvelope:
    """Put a message into its envelope.

    The conversation is the cause's, else ``correlation_id``, else the message's port, else the message itself.
    The deadline is the given one, else now plus the type's lifetime, else none.
    """
    kind = type(message)
    port_id = cast("UUID | None", getattr(message, "port_id", None))
    if deadline is None and kind.LIFETIME is not None:
        deadline = now + kind.LIFETIME
    correlation = correlation_id or (cause.correlationid if cause else None) or port_id or message_id
    return AnyEnvelope(
        id=message_id,
        source=str(source),
        type=TYPE_PREFIX + kind.__name__,
        subject=str(port_id) if port_id else None,
        time=now,
        dataschema=schema_urn(kind),
        schemaversion=kind.VERSION,
        correlationid=correlation,
        causationid=cause.id if cause else None,
        traceparent=child_traceparent(cause.traceparent) if cause else new_traceparent(),
        deadline=deadline,
        data=message,
    )


class _Outer(BaseModel):
    """Just enough of an envelope to know which model reads the rest."""

    model_config = ConfigDict(extra="allow")
    type: str
    schemaversion: SchemaVersion


@cache
def envelope_of(kind: type[Message]) -> type[AnyEnvelope]:
    """The model of an envelope with this type of message. Kept: pydantic forgets it as soon as nobody uses it, and to
    make it again takes milliseconds."""
    return cast("type[AnyEnvelope]", Envelope[kind])  # type: ignore[valid-type]  # chosen at run time


def open_envelope(body: bytes) -> AnyEnvelope:
    """Read bytes from the wire; raises `MessageError` with code ``too_large``, ``not_an_envelope``, ``unknown_type``,
    ``unknown_version`` or ``invalid_body``.
    """
    if len(body) > MAX_BODY_BYTES:
        raise MessageError("too_large", f"{len(body)} bytes; at most {MAX_BODY_BYTES} are read")
    try:
        outer = _Outer.model_validate_json(body)
    except ValidationError as error:
        raise MessageError("not_an_envelope", _explain(error)) from error
    kind = MESSAGE_TYPES.get(outer.type.removeprefix(TYPE_PREFIX)) if outer.type.startswith(TYPE_PREFIX) else None
    if kind is None:
        raise MessageError("unknown_type", f"type {outer.type[:100]!r} is not in this release's vocabulary")
    if outer.schemaversion != kind.VERSION:
        raise MessageError(
            "unknown_version", f"{kind.__name__} version {outer.schemaversion}; this release reads {kind.VERSION}"
        )
    try:
        return envelope_of(kind).model_validate_json(body)
    except ValidationError as error:
        raise MessageError("invalid_body", _explain(error)) from error


def _explain(error: ValidationError) -> str:
    """The first few problems, without echoing the input back."""
    problems = [
        f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}"
        for item in error.errors(include_input=False)[:5]
    ]
    return re.sub(r"\s+", " ", "; ".join(problems))[:1000]
