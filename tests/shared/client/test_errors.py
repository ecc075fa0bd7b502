"""What a conversation can end in, as sentences."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.client.errors import NotFixedInTime, PortEndedOtherwise, PortNotAllowed
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed, PortPhase
from tests.support.scripted_broker import PORT, REFUSAL, completed

FAILED = PortFailed(port_id=PORT, phase=PortPhase.RESERVING, code="no_answer", detail="silent", vm_runs_at="alpha")


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (FAILED, "no_answer", "failed: silent; the VM runs at alpha"),
        (completed(PORT), "already_completed", "is already completed: the VM runs at beta"),
        (PortCancelled(port_id=PORT, phase=PortPhase.QUOTING), "cancelled", "was cancelled: in phase quoting"),
    ],
)
def test_another_end(end: PortFailed | PortCompleted | PortCancelled, code: str, words: str) -> None:
    """The port, how it ended and, where it matters, which provider runs the VM."""
    error = PortEndedOtherwise.by(end)
    assert str(error) == f"port {PORT} {words}"
    assert (error.code, error.port_id) == (code, PORT)


def test_a_refusal_names_each_rule() -> None:
    """All refusals are in the sentence; without one it says so."""
    assert "memory_short" in str(PortNotAllowed("broker", (REFUSAL,)))
    assert str(PortNotAllowed("broker", ())) == "broker refuses the port: no reason given"


def test_waiting_in_vain_says_how_to_go_on() -> None:
    """The port goes on, so its id is in the sentence."""
    port_id = UUID(int=7)
    assert f"vmport port watch {port_id}" in str(NotFixedInTime(port_id, 120))
