"""The table itself."""

from __future__ import annotations

from datetime import timedelta
from typing import get_type_hints

from services.broker.saga import TABLE, Heard, approving
from services.broker.saga.state import ENDS
from services.broker.saga.table import ANYWHERE, SPEAKERS, On, on, own_time, within_port
from shared.messages import MESSAGE_TYPES, Message, PortMessage
from shared.messages.addresses import AddressesServed, ExtensionClosed, NetworkReported
from shared.messages.approval import DonorApproved
from shared.messages.service_change import PortPhase, PortProgressed, PortRequested
from shared.parties import Role
from tests.support.broker_samples import NOW, Conversation, request


def test_every_phase_has_its_row() -> None:
    """All phases are there; all but the ends have a deadline and something that happens then."""
    assert set(TABLE) == set(PortPhase)
    for phase, row in TABLE.items():
        waits = phase not in ENDS
        assert (row.limit is not None, row.on_deadline is not None, bool(row.limit_text)) == (waits, waits, waits)


def test_every_port_message_to_the_broker_has_a_speaker() -> None:
    """No message that may be sent to the broker about a port is forgotten. The request, the progress and what is said
    of addresses go elsewhere.
    """
    known = {kind for kind in MESSAGE_TYPES.values() if issubclass(kind, PortMessage) and Role.BROKER in kind.RECEIVERS}
    elsewhere = {PortRequested, PortProgressed, NetworkReported, ExtensionClosed, AddressesServed}
    assert known - elsewhere == set(SPEAKERS)


def test_each_handler_is_registered_for_its_type() -> None:
    """The type that a handler declares is the type of the line: what mypy proves, seen at run time."""
    lines = [line for row in TABLE.values() for line in row.hears] + list(ANYWHERE)
    for line in lines:
        assert get_type_hints(line.do)["heard"] in {Heard[line.message], Heard[Message]}  # type: ignore[name-defined]  # a type made at run time


def test_handler_of_another_type_is_rejected() -> None:
    """mypy refuses a handler of another message type; if it did not, the unused ignore would be an error."""
    line = on(DonorApproved, approving.donor_rejected)  # type: ignore[arg-type]  # the subject of this test
    assert line.message is DonorApproved


def test_no_message_is_listed_twice_in_a_phase() -> None:
    """The first line would hide the second one."""
    for row in TABLE.values():
        kinds = [line.message for line in row.hears]
        assert len(kinds) == len(set(kinds))


def test_each_message_of_the_table_has_a_speaker() -> None:
    """A line for a message that nobody may send would never be used."""
    assert {line.message for row in TABLE.values() for line in row.hears} <= set(SPEAKERS)


def test_a_line_is_what_was_registered() -> None:
    """Message, handler, and where it can lead."""
    line = on(DonorApproved, approving.donor_approved, to=(PortPhase.QUOTING,))
    assert line == On(DonorApproved, approving.donor_approved, (PortPhase.QUOTING,))


def test_a_phase_has_its_own_time_within_the_ports() -> None:
    """Before the commit a phase never waits past the port's deadline; after it the deadline does not count."""
    deadline = NOW + timedelta(seconds=100)
    at = Conversation.begin(request(deadline=deadline)).fixed().moment
    assert own_time("preparing")(at) == NOW + timedelta(seconds=300)
    assert within_port("preparing")(at) == deadline
    assert within_port("quoting")(at) == NOW + timedelta(seconds=15)
