"""The envelope: what it adds when a message is sealed, and what is refused when one is opened."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import AnyEnvelope, MessageError, open_envelope, seal
from shared.messages.envelope import MAX_BODY_BYTES
from shared.messages.nodes import CapacityReported
from shared.messages.queries import ANSWER_WITHIN, ListVms, VmsListed
from shared.messages.service_change import CancelPort, PortLimits, PortRequested
from shared.parties import BROKER, recipient, tenant

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACME = tenant("acme")
PORT_ID, VM = UUID(int=1), UUID(int=2)
REQUEST = PortRequested(port_id=PORT_ID, vm_uuid=VM, donor="alpha", recipient="best")


def sealed() -> AnyEnvelope:
    return seal(REQUEST, source=ACME, message_id=UUID(int=9), now=NOW)


def wire(**changes: Any) -> bytes:
    """A good request on the wire, with some attributes changed; None removes one."""
    outer = json.loads(sealed().to_json()) | changes
    return json.dumps({key: value for key, value in outer.items() if value is not None}).encode()


def refusal(body: bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        open_envelope(body)
    return caught.value


def test_cloudevents_attributes() -> None:
    """The wire form has CloudEvents' required attributes under their own names."""
    outer = json.loads(sealed().to_json())

    assert outer["specversion"] == "1.0"
    assert outer["id"] == str(UUID(int=9))
    assert outer["source"] == "tenant.acme"
    assert outer["type"] == "vmport.PortRequested"
    assert outer["datacontenttype"] == "application/json"
    assert outer["time"].startswith("2026-01-02T03:04:05")
    assert outer["subject"] == str(PORT_ID)


def test_answer_stays_in_the_conversation() -> None:
    """A message that another one caused has its correlation id, its id as cause, and its trace with a new span."""
    question = seal(ListVms(), source=ACME, message_id=UUID(int=3), now=NOW)
    answer = seal(VmsListed(vms=()), source=BROKER, message_id=UUID(int=4), now=NOW, cause=question)

    assert question.correlationid == answer.correlationid
    assert question.id == answer.causationid
    assert question.traceparent.split("-")[1] == answer.traceparent.split("-")[1]
    assert question.traceparent.split("-")[2] != answer.traceparent.split("-")[2]


def test_lifetime_becomes_deadline() -> None:
    """A question expires by its type's lifetime; a command never does unless told."""
    question = seal(ListVms(), source=ACME, message_id=UUID(int=3), now=NOW)

    assert question.deadline == NOW + ANSWER_WITHIN
    assert not question.expired(NOW + ANSWER_WITHIN)
    assert question.expired(NOW + ANSWER_WITHIN + timedelta(microseconds=1))
    assert sealed().deadline is None
    assert not sealed().expired(NOW + timedelta(days=1000))


def test_given_deadline_wins() -> None:
    """A deadline that the caller sets replaces the type's lifetime."""
    envelope = seal(ListVms(), source=ACME, message_id=UUID(int=3), now=NOW, deadline=NOW)

    assert envelope.deadline == NOW


@pytest.mark.parametrize("body", [b"", b"garbage", b"\xff\xfe", b"[]", b"null", b"{}", b'{"type": 1}', b"{" * 5000])
def test_not_an_envelope_is_rejected(body: bytes) -> None:
    """What has no type and version at all is no envelope."""
    assert refusal(body).code == "not_an_envelope"


@pytest.mark.parametrize(
    "name", ["vmport.Unknown", "PortRequested", "vmport.", "other.PortRequested", "vmport.Message"]
)
def test_unknown_type_is_rejected(name: str) -> None:
    """A type outside this release's vocabulary is refused by that name, abstract classes included."""
    assert refusal(wire(type=name)).code == "unknown_type"


@pytest.mark.parametrize("version", [0, 2, -1, 10**9])
def test_unknown_version_is_rejected(version: int) -> None:
    """A body of another schema version is not guessed at."""
    error = refusal(wire(schemaversion=version))

    assert error.code == "unknown_version"
    assert str(version) in error.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {}},
        {"data": None},
        {"data": []},
        {"data": REQUEST.model_dump(mode="json") | {"surprise": 1}},
        {"data": REQUEST.model_dump(mode="json") | {"donor": "ALPHA"}},
        {"data": REQUEST.model_dump(mode="json") | {"donor": "a.b"}},
        {"data": REQUEST.model_dump(mode="json") | {"vm_uuid": "x"}},
        {"source": "root"},
        {"source": None},
        {"id": "not-a-uuid"},
        {"time": "yesterday"},
        {"time": "2026-01-02T03:04:05"},
        {"specversion": "0.3"},
        {"traceparent": "00-zz-zz-01"},
        {"correlationid": None},
        {"surprise": "attribute"},
    ],
    ids="-".join,
)
def test_invalid_body_is_rejected(changes: dict[str, Any]) -> None:
    """A known type with a wrong body or wrong attributes is refused."""
    assert refusal(wire(**changes)).code == "invalid_body"


def test_reason_does_not_echo_the_input() -> None:
    """A refusal names the field but not the value, which may be a secret or a flood."""
    error = refusal(wire(data=REQUEST.model_dump(mode="json") | {"vm_uuid": "hunter2" * 1000}))

    assert "vm_uuid" in error.reason
    assert "hunter2" not in error.reason
    assert len(error.reason) <= 1000


def test_oversized_is_rejected_before_parsing() -> None:
    """A body past the limit is refused whatever it holds; one at the limit is read."""
    assert refusal(b" " * (MAX_BODY_BYTES + 1)).code == "too_large"
    body = wire()
    assert open_envelope(body) == open_envelope(body.ljust(MAX_BODY_BYTES))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_code(body: bytes) -> None:
    """No input escapes as anything but a typed refusal."""
    assert refusal(body).code in {"not_an_envelope", "unknown_type", "unknown_version", "invalid_body"}


@given(st.integers(min_value=0), st.binary(max_size=3))
def test_truncated_and_spliced_messages_are_refused_or_equal(position: int, noise: bytes) -> None:
    """A message that was cut or overwritten anywhere is refused, or still a message of the vocabulary."""
    body = sealed().to_json()
    cut = position % len(body)
    refusal(body[:cut])
    try:
        opened = open_envelope(body[:cut] + noise + body[cut + len(noise) :])
    except MessageError:
        return
    assert isinstance(opened.data, PortRequested)


@pytest.mark.parametrize("limits", [{"seed": True}, {"seed_bandwidth_bytes_per_s": 1 << 20}])
def test_seeding_needs_a_window(limits: dict[str, Any]) -> None:
    """There is no time to send anything ahead of a port that moves at once, and no rate for what is not done."""
    with pytest.raises(ValueError, match="needs"):
        PortLimits(**limits)


def test_limits_contradiction_is_rejected() -> None:
    """A deadline before the window's start is refused where it is made, not at the broker."""
    with pytest.raises(ValueError, match="deadline must be after"):
        PortLimits(window_start=NOW, deadline=NOW)


def test_cancel_has_a_reason_by_default() -> None:
    """A cancel without words is still a sentence in the record."""
    assert CancelPort(port_id=PORT_ID).reason == "cancelled by tenant"


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "9999-12-31T23:59:59Z"},
        {"deadline": "0001-01-01T00:00:00Z"},
        {"data": {"limits": {"window_start": "9999-12-31T23:59:59Z"}}},
        {"data": {"limits": {"deadline": "1970-01-01T00:00:00Z"}}},
    ],
)
def test_times_out_of_reach_are_refused(changes: dict[str, Any]) -> None:
    """A time near the calendar's ends would overflow whatever is added to it."""
    request = json.loads(REQUEST.model_dump_json())
    if "data" in changes:
        changes = {"data": {**request, **changes["data"]}}
    error = refusal(wire(**changes))
    assert error.code == "invalid_body"
    assert "the year must be between 2000 and 2199" in error.reason


@pytest.mark.parametrize("reason", ["a\0b", "\0"])
def test_text_that_postgresql_does_not_store_is_refused(reason: str) -> None:
    """A stranger's NUL is an error; our own is replaced."""
    cancel = seal(CancelPort(port_id=PORT_ID), source=ACME, message_id=UUID(int=9), now=NOW)
    body = json.loads(cancel.to_json())
    body["data"]["reason"] = reason
    assert refusal(json.dumps(body).encode()).code == "invalid_body"
    assert "\0" not in CancelPort(port_id=PORT_ID, reason=reason).reason


def test_counts_fit_the_ledger() -> None:
    """Numbers that a stranger chooses fit the columns that they are stored in."""
    report = CapacityReported(at=NOW, nodes_healthy=1, nodes=1, memory_free_bytes=1, disk_free_bytes=1)
    envelope = seal(report, source=recipient("beta"), message_id=UUID(int=9), now=NOW)
    body = json.loads(envelope.to_json())
    for name, value in (("nodes", 2**31), ("nodes_healthy", -1), ("disk_free_bytes", 2**63)):
        changed = {**body, "data": {**body["data"], name: value}}
        assert refusal(json.dumps(changed).encode()).code == "invalid_body"
