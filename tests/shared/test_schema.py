"""The printed contract: valid in itself, and true of what vmport writes and reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from shared import topology
from shared.bus import believe
from shared.messages import MESSAGE_TYPES, Message, open_envelope, seal
from shared.parties import BROKER, Party, Role, donor, node, recipient, tenant
from shared.schema import DIALECT, asyncapi, definitions, json_schema

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SCHEMA = json_schema()
DOCUMENT = asyncapi()
KINDS = sorted(MESSAGE_TYPES.values(), key=lambda kind: kind.__name__)
PARTIES: dict[Role, Party] = {
    Role.TENANT: tenant("acme"),
    Role.BROKER: BROKER,
    Role.DONOR: donor("alpha"),
    Role.RECIPIENT: recipient("beta"),
    Role.NODE: node("alpha", "alpha-1"),
}

HAND_WRITTEN = {
    "specversion": "1.0",
    "id": "6a2f8f1e-2b44-4a3b-9d0e-0c8b5d0c7a11",
    "source": "tenant.acme",
    "type": "vmport.PortRequested",
    "subject": "0b0ddc6e-8f0a-4e8c-b52e-52a6b5a1f7aa",
    "time": "2026-01-02T03:04:05Z",
    "datacontenttype": "application/json",
    "dataschema": "urn:vmport:schema:PortRequested:1",
    "schemaversion": 1,
    "correlationid": "0b0ddc6e-8f0a-4e8c-b52e-52a6b5a1f7aa",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "data": {
        "port_id": "0b0ddc6e-8f0a-4e8c-b52e-52a6b5a1f7aa",
        "vm_uuid": "4f0c1a5e-33a1-4d52-8d43-0d2a2f0b8f10",
        "donor": "alpha",
        "recipient": "best",
        "limits": {"max_downtime_ms": 500, "max_price_per_month": "12.50", "post_copy": "never"},
    },
}
"""What somebody would write who has read `vmport schema` and has none of our code."""


def envelope_validator(kind: type[Message]) -> Draft202012Validator:
    """Only one message's schema: the validator of all would make slow errors of 58 alternatives."""
    schema = {"$schema": DIALECT, "$ref": f"#/$defs/{kind.__name__}Envelope", "$defs": SCHEMA["$defs"]}
    return Draft202012Validator(schema, format_checker=FormatChecker())


def references(value: Any) -> Iterator[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(document: dict[str, Any], reference: str) -> Any:
    """What a local JSON pointer names; KeyError where it names nothing."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_schema_is_a_valid_schema() -> None:
    """The printed schema satisfies JSON Schema 2020-12's own schema and has no dangling reference."""
    Draft202012Validator.check_schema(SCHEMA)

    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for reference in references(SCHEMA):
        resolve(SCHEMA, reference)


def test_schema_names_every_message() -> None:
    """Each message of the vocabulary is an alternative, and nothing else is."""
    assert [alternative["$ref"] for alternative in SCHEMA["oneOf"]] == [
        f"#/$defs/{kind.__name__}Envelope" for kind in KINDS
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_what_is_written_satisfies_the_schema(
    kind: type[Message], any_message: Callable[[type[Message]], st.SearchStrategy[Message]], data: st.DataObject
) -> None:
    """A sealed message of any content validates against the printed schema of its type."""
    message = data.draw(any_message(kind))
    envelope = seal(message, source=PARTIES[min(kind.SENDERS)], message_id=UUID(int=7), now=NOW)

    envelope_validator(kind).validate(json.loads(envelope.to_json()))


def test_hand_written_message_is_understood() -> None:
    """What satisfies the schema is read: a request written by hand is a request."""
    Draft202012Validator(SCHEMA).validate(HAND_WRITTEN)
    envelope = open_envelope(json.dumps(HAND_WRITTEN).encode())

    believe(envelope, verified_user="tenant.acme", receiver=BROKER)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("type",), "vmport.Nothing"),
        (("type",), "vmport.CancelPort"),
        (("schemaversion",), 2),
        (("source",), "somebody"),
        (("data", "donor"), "Not A Name"),
        (("data", "limits", "max_price_per_month"), 12.5),
        (("data", "limits", "max_price_per_month"), "-1"),
        (("data", "limits", "max_downtime_ms"), 0),
        (("data", "surprise"), True),
    ],
)
def test_schema_refuses_what_is_wrong(path: tuple[str, ...], value: Any) -> None:
    """The schema is not a formality: wrong values fail it before they reach a queue."""
    message = json.loads(json.dumps(HAND_WRITTEN))
    inner = message
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value

    assert not Draft202012Validator(SCHEMA).is_valid(message)


def test_asyncapi_shape() -> None:
    """The document has AsyncAPI 3's required parts, and every reference in it resolves."""
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    assert set(DOCUMENT["channels"]) == {role.value for role in Role}
    for reference in references(DOCUMENT):
        resolve(DOCUMENT, reference)
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")


def test_asyncapi_addresses_are_the_topology() -> None:
    """With the names filled in, a channel's address and queue are those that the topology makes."""
    for role, party in PARTIES.items():
        channel = DOCUMENT["channels"][role.value]
        names = {"tenant": party.owner, "provider": party.owner, "node": party.node}
        filled = {name: names[name] for name in channel.get("parameters", {})}

        assert channel["address"].format(**filled) == topology.to_exchange(party)
        assert channel["x-queue"]["name"].format(**filled) == topology.inbox_queue(party)
        assert channel["bindings"]["amqp"]["exchange"]["name"] == channel["address"]


def test_asyncapi_operations_are_the_roles() -> None:
    """A tenant is told exactly what it may send, and no pair of roles is shown that has no right to talk."""
    sent = {message["$ref"].rpartition("/")[2] for message in DOCUMENT["operations"]["tenant_to_broker"]["messages"]}

    assert sent == {kind.__name__ for kind in KINDS if Role.TENANT in kind.SENDERS}
    assert {"node_to_tenant", "donor_to_recipient", "broker_to_broker"}.isdisjoint(DOCUMENT["operations"])
    assert {"node_to_broker", "broker_to_tenant", "donor_to_node"} <= set(DOCUMENT["operations"])


def test_asyncapi_covers_every_message() -> None:
    """No message exists that no operation sends, and none that no operation receives."""
    for action in ("send", "receive"):
        named = {
            message["$ref"].rpartition("/")[2]
            for operation in DOCUMENT["operations"].values()
            if operation["action"] == action
            for message in operation["messages"]
        }
        assert named == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize(
    ("kind", "field", "good", "bad"),
    [
        ("BillLine", "amount", ("-0.50", "0", "12.3"), ("1.005", "--1", "01", "1e3")),
        ("JoiningTerms", "credit_percent", ("0", "99.9999", "100", "100.00"), ("100.01", "200", "-1", "101")),
        ("JoiningTerms", "fee", ("0", "1.50"), ("-1", "1.505")),
    ],
)
def test_decimals_are_strings_within_their_bounds(
    kind: str, field: str, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    """What may be given back is negative; a share is at most 100; a price is neither."""
    schema = definitions()[kind]["properties"][field]
    pattern = schema["anyOf"][0]["pattern"] if "anyOf" in schema else schema["pattern"]
    assert all(re.search(pattern, text) for text in good)
    assert not any(re.search(pattern, text) for text in bad)
