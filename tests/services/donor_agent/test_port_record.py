"""The quarantine clock."""

from __future__ import annotations

from datetime import timedelta

from services.donor_agent.port_record import DonorPort, Phase
from services.donor_agent.testing import NOW, PORT, VM, make_identity

QUARANTINE = timedelta(days=14)


def port(phase: Phase = Phase.DISCONNECTING) -> DonorPort:
    """A port whose VM has left."""
    return DonorPort(
        port_id=PORT,
        tenant="acme",
        vm_uuid=VM,
        node="alpha-1",
        phase=phase,
        updated_at=NOW,
        identity=make_identity(),
    )


def test_quarantine_starts_when_the_node_has_disconnected() -> None:
    """Disks, their size and the date are on record."""
    kept = port().disconnected(("/q/vda",), NOW, QUARANTINE)

    assert kept.phase is Phase.QUARANTINED
    assert kept.quarantine_until == NOW + QUARANTINE
    assert (kept.quarantined_disks, kept.quarantined_bytes) == (("/q/vda",), 1 << 28)


def test_a_repeated_answer_does_not_start_it_again() -> None:
    """The tenant was told a date."""
    kept = port().disconnected(("/q/vda",), NOW, QUARANTINE)

    assert kept.disconnected((), NOW + timedelta(days=1), QUARANTINE) == kept


def test_erased_only_after_the_completion() -> None:
    """Without it there is no time for it; with it, the whole quarantine follows."""
    kept = port().disconnected(("/q/vda",), NOW, QUARANTINE)
    assert kept.erase_at is None
    later = NOW + timedelta(days=30)
    completed = kept.completed(later, QUARANTINE)
    assert (completed.erase_at, completed.phase) == (later + QUARANTINE, Phase.QUARANTINED)
    assert completed.completed(later + timedelta(days=1), QUARANTINE) == completed
    assert completed.erased(later).erase_at is None


def test_a_rule_can_only_make_it_longer() -> None:
    """Counted from the disconnection and from the completion, whichever the provider's own clock says."""
    until = NOW + timedelta(days=30)
    held = port().in_phase(Phase.DISCONNECTING, NOW, keep_until=until)
    kept = held.disconnected(("/q/vda",), NOW, QUARANTINE)
    assert kept.quarantine_until == until
    assert kept.completed(NOW, QUARANTINE).erase_at == until
    later = NOW + timedelta(days=20)
    assert kept.completed(later, QUARANTINE).erase_at == later + QUARANTINE


def test_completed_before_it_was_disconnected() -> None:
    """The order of the two does not matter."""
    kept = port().completed(NOW, QUARANTINE)
    assert kept.erase_at is None
    later = NOW + timedelta(days=3)
    assert kept.disconnected(("/q/vda",), later, QUARANTINE).erase_at == later + QUARANTINE


def test_nothing_kept_is_nothing_counted() -> None:
    """A node that kept no disk has no quarantined bytes, and neither has one that erased them."""
    assert port().disconnected((), NOW, QUARANTINE).quarantined_bytes == 0
    assert port().disconnected(("/q/vda",), NOW, QUARANTINE).erased(NOW).quarantined_bytes == 0


def test_a_record_survives_json() -> None:
    """What is stored is what is read."""
    kept = port().disconnected(("/q/vda",), NOW, QUARANTINE)

    assert DonorPort.model_validate_json(kept.model_dump_json()) == kept
