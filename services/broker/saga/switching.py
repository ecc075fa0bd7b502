"""The switchover: what both nodes must have said, the commit of the epoch, and what nodes are told about it. Pure.

* The commit is the instant at which ownership passes. The step that commits writes the new epoch to the ledger, and
  the grant to the outbox, in one transaction: there is no grant without a commit.
* Two words make it: the donor's node has sent everything and its guest stands still (`GuestPaused`), and the
  recipient's node holds libvirt's Finish (`RequestSwitchover`). Whichever comes second commits. The recipient's word
  alone would take a VM from a donor that still runs it.
* A request that waits for the other word is answered when that comes, or denied when the port is aborted
  (`ending.abort`). The donor's node is always answered, so that it stops repeating itself.
"""

from __future__ import annotations

from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import CommitEpoch, Effect, Send
from services.broker.saga.events import Heard
from services.broker.saga.networking import serve_addresses
from shared.messages import Message
from shared.messages.porting import (
    GuestPaused,
    QuerySwitchover,
    RequestSwitchover,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
)
from shared.messages.service_change import PortPhase
from shared.messages.switchover import QueryCopy

# The two words, in STARTING and TRANSFERRING


def guest_paused(at: Moment, heard: Heard[GuestPaused]) -> Decision:
    """The donor's node has sent everything, and will not run the guest without the ledger."""
    if not _is_agreed(at, heard.message):
        return _not_agreed(at, heard)
    refusal = _not_now(at)
    if refusal is not None:
        return at.stay(state_to_donor(at), note=f"no switchover: {refusal[1]}")
    repeated = at.state.guest_paused_at is not None
    paused = at.with_(guest_paused_at=at.state.guest_paused_at or at.now)
    if at.state.switchover_requested_at is not None:
        return _commit(paused)
    return paused.stay(state_to_donor(paused), note="guest paused; the recipient has not asked yet", quiet=repeated)


def request_switchover(at: Moment, heard: Heard[RequestSwitchover]) -> Decision:
    """The recipient's node holds libvirt's Finish: commit and grant, once the donor's node has paused the guest."""
    agreed = at.agreement
    if not _is_agreed(at, heard.message):
        return _deny(at, heard, "not_agreed", f"the agreement is about VM {agreed.vm_uuid} and epoch {agreed.epoch}")
    refusal = _not_now(at)
    if refusal is not None:
        return _deny(at, heard, *refusal)
    repeated = at.state.switchover_requested_at is not None
    asked = at.with_(switchover_requested_at=at.state.switchover_requested_at or at.now)
    if at.state.guest_paused_at is not None:
        return _commit(asked)
    return asked.stay(note="asked for; the donor's node has not paused the guest yet", quiet=repeated)


def _is_agreed(at: Moment, said: GuestPaused | RequestSwitchover) -> bool:
    return (said.vm_uuid, said.epoch) == (at.agreement.vm_uuid, at.agreement.epoch)


def _not_now(at: Moment) -> tuple[str, str] | None:
    """Code and reason why no switchover is possible at this instant; None if it is."""
    if at.now >= at.agreement.deadline:  # the deadline's own event aborts the port
        return "not_now", f"the deadline {at.agreement.deadline.isoformat()} has passed"
    if at.now < at.agreement.window_start - at.timing.clock_difference:
        return "window_closed", f"the window opens at {at.agreement.window_start.isoformat()}"
    return None


def _commit(at: Moment) -> Decision:
    agreed = at.agreement
    committed = at.with_(owner=agreed.recipient, epoch=agreed.epoch, committed=True)
    return committed.go(
        PortPhase.SWITCHING,
        CommitEpoch(agreed.vm_uuid, agreed.epoch, agreed.recipient, agreed.recipient_node),
        grant_to_recipient(committed),
        # The donor knows of the commit before the recipient's answer to Finish reaches it.
        state_to_donor(committed, phase=PortPhase.SWITCHING),
        *serve_addresses(committed),
        note=f"epoch {agreed.epoch} committed to {agreed.recipient}",
    )


# Repetitions, and requests at any other time


def grant_again(at: Moment, heard: Heard[RequestSwitchover]) -> Decision:
    """The node has not received the grant, or has forgotten it: it is still valid."""
    grant = SwitchoverGranted(port_id=at.state.port_id, epoch=at.state.epoch)
    return at.stay(Send(heard.sender, grant), note="grant repeated")


def deny_switchover(at: Moment, heard: Heard[RequestSwitchover]) -> Decision:
    """The VM stays at the donor."""
    failure = at.state.failure
    if failure is not None:
        return _deny(at, heard, failure.code, failure.detail)
    return _deny(at, heard, "not_now", f"the port is in phase {at.state.phase}")


def _deny(at: Moment, heard: Heard[RequestSwitchover], code: str, detail: str) -> Decision:
    denial = SwitchoverDenied(port_id=at.state.port_id, code=code, detail=detail)
    return at.stay(Send(heard.sender, denial), note=f"switchover denied: {detail}")


def pause_known(at: Moment, heard: Heard[GuestPaused]) -> Decision:
    """The donor's node repeats itself, or comes too late: it is told who owns the VM."""
    if at.state.agreement is None or not _is_agreed(at, heard.message):
        return _not_agreed(at, heard)
    answer = Send(heard.sender, ownership(at))
    return at.stay(answer, note=f"told that {at.state.owner} owns the VM", quiet=at.state.guest_paused_at is not None)


def _not_agreed(at: Moment, heard: Heard[GuestPaused]) -> Decision:
    said = heard.message
    note = f"not agreed: guest paused of VM {said.vm_uuid} for epoch {said.epoch}"
    return at.stay(Send(heard.sender, ownership(at)), note=note)


def tell_owner(at: Moment, heard: Heard[Message]) -> Decision:
    """Tell a node who owns the VM.

    After the end this also answers a request for switchover: a grant would be wrong, and a denial would make the node
    destroy a VM that may be running.
    """
    quiet = isinstance(heard.message, QuerySwitchover)
    return at.stay(Send(heard.sender, ownership(at)), note=f"told that {at.state.owner} owns the VM", quiet=quiet)


# What nodes are told


def ownership(at: Moment, *, phase: PortPhase | None = None) -> SwitchoverState:
    """Who owns the VM, and whether a switchover could be committed at this instant.

    ``phase`` is where the step leads, if it is not the phase of the moment.
    """
    state = at.state
    moving = (phase or state.phase) in {PortPhase.STARTING, PortPhase.TRANSFERRING}
    return SwitchoverState(
        port_id=state.port_id,
        committed=state.committed,
        owner=state.owner,
        epoch=state.epoch,
        ended=state.ended,
        arrived=state.committed and state.arrived_at is not None,
        ready=moving and _not_now(at) is None,
    )


def grant_to_recipient(at: Moment) -> Effect:
    """The grant of the epoch that is committed."""
    return Send(at.recipient_node, SwitchoverGranted(port_id=at.state.port_id, epoch=at.state.epoch))


def state_to_donor(at: Moment, *, phase: PortPhase | None = None) -> Effect:
    """Tell the donor's node who owns the VM; ``phase`` as in `ownership`."""
    return Send(at.donor_node, ownership(at, phase=phase))


def copy_question(at: Moment) -> Effect:
    """Ask the donor's node whether it has let the guest go."""
    return Send(at.donor_node, QueryCopy(port_id=at.state.port_id, vm_uuid=at.agreement.vm_uuid))
