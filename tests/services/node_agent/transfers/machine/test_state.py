"""What is known of a guest: three values, and the third is never "no"."""

from __future__ import annotations

import pytest

from services.node_agent.transfers.machine.state import Donor, DonorPhase, Guest, Recipient, RecipientPhase
from shared.messages.vm import VmState


@pytest.mark.parametrize(
    ("state", "guest"),
    [
        (VmState.RUNNING, Guest.RUNNING),
        (VmState.PAUSED, Guest.PAUSED),
        (VmState.SHUT_OFF, Guest.NOT_THERE),
        (None, Guest.NOT_THERE),
        (VmState.OTHER, Guest.UNKNOWN),
    ],
)
def test_what_libvirts_answer_means(state: VmState | None, guest: Guest) -> None:
    """A state that is neither on nor off (dying, crashed, asleep) proves nothing."""
    assert Guest.of(state) is guest


def test_a_changed_copy_leaves_the_value_as_it_was() -> None:
    """States are values."""
    donor, recipient = Donor("alpha"), Recipient("beta")
    assert donor.with_(phase=DonorPhase.LEFT).phase is DonorPhase.LEFT
    assert recipient.with_(phase=RecipientPhase.GONE).phase is RecipientPhase.GONE
    assert (donor.phase, recipient.phase) == (DonorPhase.MOVING, RecipientPhase.WAITING)
