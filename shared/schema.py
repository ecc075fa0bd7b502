"""The messages for clients in other languages: JSON Schema 2020-12 of every message in its envelope, and AsyncAPI 3.

Derived from the models, their roles and the topology, so that it cannot differ from them. Pure; `vmport schema` prints
it. It is a little stricter than what vmport accepts: a price is a decimal string, ``specversion`` is required.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from shared import topology
from shared.messages import CONTENT_TYPE, MESSAGE_TYPES, Envelope, Message
from shared.messages.envelope import TYPE_PREFIX, schema_urn
from shared.parties import BROKER, Party, Role

DIALECT = GenerateJsonSchema.schema_dialect
SCHEMA_ID = "urn:vmport:schema"
MODE: JsonSchemaMode = "validation"
"""The schema of what is accepted; what vmport sends satisfies it, too."""


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with decimals as strings, as vmport sends them: a float would lose a client's cents."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        places = schema.get("decimal_places") or 0
        whole = (schema.get("max_digits") or 28) - places
        sign = "-?" if schema.get("ge") is None else ""
        most = schema.get("le")
        if most is None:
            pattern = rf"{sign}(?:0|[1-9][0-9]{{0,{whole - 1}}})(?:\.[0-9]{{1,{places}}})?"
        else:
            # Only a power of ten can be said in a pattern: all that has fewer digits, or that number itself.
            zeros = len(str(most)) - 1
            below = rf"(?:0|[1-9][0-9]{{0,{zeros - 1}}})(?:\.[0-9]{{1,{places}}})?"
            pattern = rf"{sign}(?:{below}|10{{{zeros}}}(?:\.0{{1,{places}}})?)"
        return {"type": "string", "pattern": f"^{pattern}$"}


def message_types() -> list[type[Message]]:
    """Every message of this release, by name."""
    return [MESSAGE_TYPES[name] for name in sorted(MESSAGE_TYPES)]


def definitions(ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
    """All schemas by name: ``PortRequested`` is the body, ``PortRequestedEnvelope`` the message on the wire."""
    kinds = message_types()
    envelopes = [(cast("type[Envelope[Message]]", Envelope.__class_getitem__(kind)), MODE) for kind in kinds]
    _, raw = models_json_schema(envelopes, ref_template=ref_template, schema_generator=_Generator)
    found = {_public_name(name): schema for name, schema in raw["$defs"].items()}
    for kind in kinds:
        found[kind.__name__] |= _roles(kind)
        _pin(found[f"{kind.__name__}Envelope"], kind)
    return dict(sorted(found.items()))


def json_schema() -> dict[str, Any]:
    """One schema for all control messages; each of them satisfies it."""
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        "title": "vmport control message",
        "description": "A CloudEvents 1.0 envelope in JSON (structured mode) whose data is one of vmport's messages.",
        "oneOf": [{"$ref": f"#/$defs/{kind.__name__}Envelope"} for kind in message_types()],
        "$defs": definitions(),
    }


_INTRODUCTION = """\
Every message is a CloudEvents 1.0 envelope in JSON. A party publishes to the receiver's exchange (fanout, no routing
key), persistent, mandatory and confirmed, with the AMQP property user_id set to its own user name: RabbitMQ verifies
it, and a message without it, or whose envelope names another source, is not believed. Each party reads its own inbox
queue. What cannot be understood or believed ends in the receiver's dead-letter queue with the reason in its headers.
"""

_SERVER: dict[str, Any] = {
    "host": "{host}:5672",
    "pathname": "/{vhost}",
    "protocol": "amqp",
    "protocolVersion": "0.9.1",
    "variables": {"host": {"default": "localhost"}, "vhost": {"default": "vmport"}},
    "security": [{"$ref": "#/components/securitySchemes/password"}],
}

_BINDING = {"bindingVersion": "0.3.0"}

_PLACEHOLDERS = {
    Role.TENANT: Party(Role.TENANT, "{tenant}"),
    Role.BROKER: BROKER,
    Role.DONOR: Party(Role.DONOR, "{provider}"),
    Role.RECIPIENT: Party(Role.RECIPIENT, "{provider}"),
    Role.NODE: Party(Role.NODE, "{provider}", "{node}"),
}
"""One party per role, with placeholders for names, as channel addresses have them."""

_EXAMPLES = {
    Role.TENANT: Party(Role.TENANT, "acme"),
    Role.BROKER: BROKER,
    Role.DONOR: Party(Role.DONOR, "alpha"),
    Role.RECIPIENT: Party(Role.RECIPIENT, "alpha"),
    Role.NODE: Party(Role.NODE, "alpha", "alpha-1"),
}


def asyncapi() -> dict[str, Any]:
    """An AsyncAPI 3.0 document: a channel per role's inbox, an operation per pair of roles that talk, all messages."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:vmport",
        "info": {
            "title": "vmport control plane",
            "version": metadata.version("vmport"),
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": {"rabbitmq": _SERVER},
        "channels": {role.value: _channel(role) for role in Role},
        "operations": _operations(),
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in message_types()},
            "schemas": definitions("#/components/schemas/{model}"),
            "securitySchemes": {"password": {"type": "userPassword", "description": "The party's RabbitMQ user."}},
        },
    }


def _channel(role: Role) -> dict[str, Any]:
    """Messages that a role's inbox takes. The address is the exchange to publish to, the queue is the receiver's."""
    party = _PLACEHOLDERS[role]
    exchange, queue = topology.to_exchange(party), topology.inbox_queue(party)
    channel: dict[str, Any] = {
        "address": exchange,
        "title": f"Inbox of {party}",
        "description": f"Read from queue {queue}; what is given up lies in queue {topology.dead_queue(party)}.",
        "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in _received_by(role)},
        "bindings": {
            "amqp": _BINDING
            | {
                "is": "routingKey",
                "exchange": {
                    "name": exchange,
                    "type": "fanout",
                    "durable": True,
                    "autoDelete": False,
                    "vhost": "vmport",
                },
            }
        },
        "x-queue": {"name": queue, "durable": True, "arguments": dict(topology.inbox_arguments(party))},
    }
    if names := re.findall(r"{(\w+)}", str(party)):
        channel["parameters"] = {name: {"description": f"Name of the {name}: a-z, 0-9 and '-'."} for name in names}
    return channel


def _operations() -> dict[str, Any]:
    """``tenant_to_broker`` is what a tenant sends to a broker; ``tenant_inbox`` what it receives."""
    operations: dict[str, Any] = {}
    for receiver in Role:
        received = _received_by(receiver)
        operations[f"{receiver}_inbox"] = _operation("receive", receiver, received, f"What a {receiver} receives.")
        for sender in Role:
            sent = [kind for kind in received if sender in kind.SENDERS]
            if sent and _may_write(sender, receiver):
                summary = f"What a {sender} may send to a {receiver}."
                operations[f"{sender}_to_{receiver}"] = _operation("send", receiver, sent, summary)
    return operations


def _may_write(sender: Role, receiver: Role) -> bool:
    """Whether the sender may publish to the receiver at all; roles of relayed messages also make pairs that may not."""
    rights = topology.permissions_of(_EXAMPLES[sender])
    return sender is not receiver and bool(re.search(rights.write, topology.to_exchange(_EXAMPLES[receiver])))


def _operation(action: str, receiver: Role, kinds: list[type[Message]], summary: str) -> dict[str, Any]:
    how = {"deliveryMode": 2} if action == "send" else {"ack": True}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{receiver}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{receiver}/messages/{kind.__name__}"} for kind in kinds],
        "bindings": {"amqp": how | _BINDING},
    }


def _message(kind: type[Message]) -> dict[str, Any]:
    return {
        "name": TYPE_PREFIX + kind.__name__,
        "title": kind.__name__,
        "summary": _summary(kind),
        "contentType": CONTENT_TYPE,
        "correlationId": {
            "description": "The conversation: a port's id, or a question's.",
            "location": "$message.payload#/correlationid",
        },
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}Envelope"},
        "bindings": {"amqp": {"messageType": TYPE_PREFIX + kind.__name__} | _BINDING},
    }


def _received_by(role: Role) -> list[type[Message]]:
    return [kind for kind in message_types() if role in kind.RECEIVERS]


def _summary(kind: type[Message]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _public_name(name: str) -> str:
    """pydantic's ``Envelope_PortRequested_`` as ``PortRequestedEnvelope``."""
    return re.sub(r"^Envelope_(\w+)_$", r"\1Envelope", name)


def _roles(kind: type[Message]) -> dict[str, Any]:
    """Who may send it to whom, and how long it is valid; readers that do not know these keywords ignore them."""
    roles: dict[str, Any] = {
        "x-senders": sorted(kind.SENDERS),
        "x-receivers": sorted(kind.RECEIVERS),
    }
    if kind.LIFETIME is not None:
        roles["x-lifetime-s"] = kind.LIFETIME.total_seconds()
    return roles


def _pin(envelope: dict[str, Any], kind: type[Message]) -> None:
    """Narrow the envelope's schema, in place, to this one message type."""
    envelope["title"] = f"{kind.__name__}Envelope"
    envelope["description"] = _summary(kind)
    for name, value in (
        ("type", TYPE_PREFIX + kind.__name__),
        ("schemaversion", kind.VERSION),
        ("dataschema", schema_urn(kind)),
    ):
        envelope["properties"][name]["const"] = value
    envelope["required"] = ["specversion", *envelope["required"]]
