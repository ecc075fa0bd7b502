"""An operator settles who owns a VM, where the parties cannot: on evidence that they have not. Pure.

* Only in a phase that waits without end: RESOLVING, FINISHING, and an abort whose parties contradict each other.
* For the recipient: the port finishes. What is not confirmed within the time of FINISHING becomes a debt: the port
  completes, and its record and the tenant's message name what is missing. Who comes back later still pays it.
* For the donor: the next epoch gives the VM back, and the port is aborted.
* Who decided, when and on what evidence is part of the port's state and of its record for good.
"""

from __future__ import annotations

from services.broker.saga.arrival import give_back
from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import CommitEpoch, Effect
from services.broker.saga.ending import end_without_success
from services.broker.saga.events import Owner, Settled
from services.broker.saga.finishing import ask_all, finish
from services.broker.saga.networking import serve_addresses
from services.broker.saga.state import Failure, Settlement
from services.broker.saga.switching import state_to_donor
from shared.messages.service_change import PortPhase


def settle_resolving(at: Moment, event: Settled) -> Decision:
    """Nobody reports whether the VM arrived."""
    settled, note = _noted(at, event)
    if event.owner is Owner.DONOR:
        return give_back(settled, _failure(at, note))
    return finish(settled.with_(arrived_at=at.state.arrived_at or at.now), note)


def settle_finishing(at: Moment, event: Settled) -> Decision:
    """The VM has arrived, and what follows is not confirmed."""
    settled, note = _noted(at, event)
    if event.owner is Owner.DONOR:
        return give_back(settled, _failure(at, note))
    return ask_all(settled, note)


def settle_aborting(at: Moment, event: Settled) -> Decision:
    """The parties' words contradict each other after the VM was given back."""
    if not at.state.contradiction:
        return at.ignore("the port ends by itself: an abort has a deadline")
    settled, note = _noted(at, event)
    if event.owner is Owner.DONOR:
        return end_without_success(settled.with_(warnings=()), at.failure, settled.state.warnings)
    agreed, epoch = at.agreement, at.state.epoch + 1
    given = settled.with_(
        owner=agreed.recipient,
        epoch=epoch,
        committed=True,
        contradiction="",
        failure=None,
        arrived_at=at.state.arrived_at or at.now,
    )
    commit: tuple[Effect, ...] = (
        CommitEpoch(agreed.vm_uuid, epoch, agreed.recipient, agreed.recipient_node),
        state_to_donor(given),
        *serve_addresses(given),
    )
    return finish(given, note).after(*commit, note=f"epoch {epoch} committed to {agreed.recipient}; {note}")


def _noted(at: Moment, event: Settled) -> tuple[Moment, str]:
    """The moment with the settlement in its state, and the sentence that says it."""
    owner = at.agreement.donor if event.owner is Owner.DONOR else at.agreement.recipient
    settlement = Settlement(owner=owner, by=event.by, at=at.now, evidence=event.evidence)
    warnings = (*at.state.warnings, str(settlement))
    return at.with_(settled=settlement, warnings=warnings), str(settlement)


def _failure(at: Moment, note: str) -> Failure:
    return Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code="settled", detail=note)
