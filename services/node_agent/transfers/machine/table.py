"""The tables of a transfer's machine: what each phase understands, and where that can lead. Pure.

Theory
------
A guest is on two hosts for a while, whole on one of them and incomplete on the other. Each host's libvirtd would run
its own copy when the connection between them breaks. So each side takes that decision away from its libvirtd, and
gives it to the broker's ledger, which says at every instant who owns the VM. `engine.step` computes, from this table,
what an event means now. The tables keep these rules:

1. **Before Finish the donor, after it the ledger.** Until the donor has declared (FINISH_PASSED or POST_COPY in its
   journal) nobody else can run the guest, because the broker commits only with the donor's `GuestPaused`, which is said
   after the declaration. In post-copy that comes while the guest still runs here; it cannot run at the recipient before
   Finish goes out. From then on nothing but the ledger lets the guest run at the donor: no restart, no failure of
   the recipient, no lost lane.
2. **Write before act, assign after write.** Each declaration is stored before what it declares is done: FINISH_PASSED
   before the fence and before Finish goes out; POST_COPY before the question for it; at the recipient SWITCHOVER_ASKED
   before the question, FINISH_PASSED before libvirt hears Finish, and in post-copy not with the grant, which comes
   while the guest still runs at the donor. A write that fails (a full disk) leaves the guest
   where it was.
3. **The donor's copy is fenced, then killed or given back.** Its process is stopped from Finish until the ledger
   decides. "Runs there" needs two words: the ledger's commit, and that it runs (of the broker, or of the recipient's
   libvirt). Then the stopped process is killed and never thawed, and libvirtd hears of it afterwards: a libvirtd that
   has queued a resume finds nobody who could carry it out, and one that hangs on the stopped monitor is freed.
4. **Unknown is never "no".** What libvirt does not answer is asked again. The recipient says finally that the guest
   does not run there only when the domain is proven gone; the donor ends a transfer that failed only when the guest is
   seen running again, or proven gone.
5. **What may have run is not removed.** Once Finish was passed at the recipient, everything stays until the ledger has
   given the VM back and the broker's AbortTransfer says so. A repeated grant or a late abort removes nothing.
6. **What may have run is not given back.** FINISH_PASSED is written before QEMU can run the guest. While the host has
   not been restarted, and nobody has seen the guest start, "no guest here" proves that it never ran: libvirtd keeps
   one that runs, and ends only one that does not. While libvirtd is away, the guest's process is looked at instead:
   one whose vCPUs have used CPU time has run, and one that is gone has ended by itself. And one look proves nothing:
   libvirt's news that the guest was started may come after its answer that there is none, so it is looked for again a
   moment later. What libvirt's hook has written down counts before all this: a guest that ended by itself may have run,
   whoever was away then. Where there is no proof, the guest counts as arrived and gone. And before the ledger gives the
   VM back, the donor says that it has not let the guest go, and promises that only the ledger lets it from then on.
7. **Nobody goes back.** What the broker says of an epoch older than one that was heard is not believed: it comes late,
   or from a ledger that was restored.
8. **No event can raise an error.** One that the phase does not understand is ignored; what counts later is remembered.

A guest that an operator has paused (GuestSuspended) stays paused if it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from services.node_agent.transfers.machine import donor, recipient
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import Decision, Donor, DonorPhase, Recipient, RecipientPhase

S = TypeVar("S", Donor, Recipient)
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class On:
    """One line of a phase: which event is answered how, and where that can lead, besides staying. See `on`."""

    event: type[Any]
    do: Callable[[Any, Any], Decision[Any]]
    to: tuple[DonorPhase | RecipientPhase, ...] = ()


def on(event: type[E], do: Callable[[S, E], Decision[S]], *, to: tuple[DonorPhase | RecipientPhase, ...] = ()) -> On:
    """Register a handler for its event type. mypy rejects a handler of another type."""
    return On(event, do, to)


D = DonorPhase
_DECIDED = (D.KILLING, D.GIVING_BACK, D.LEAVING)
_FREEZE_OR_PASS = (D.FREEZING, D.UNDECIDED)

DONOR_ANYWHERE: tuple[On, ...] = (
    on(ev.LedgerSaid, donor.remember),
    on(ev.FinishAnswered, donor.remember),
    on(ev.LaneLost, donor.remember),
    on(ev.MigrationEnded, donor.remember),
    on(ev.Aborted, donor.remember),
)
"""What counts later, in phases that do not list it themselves."""

DONOR: Mapping[DonorPhase, tuple[On, ...]] = {
    D.MOVING: (
        on(ev.Restarted, donor.restarted, to=(D.FREEZING, D.RETURNING)),
        on(ev.GuestSuspended, donor.suspended),
        on(ev.GuestResumed, donor.resumed),
        on(ev.FinishWanted, donor.finish_wanted, to=(D.DECLARING,)),
        on(ev.PostCopyWanted, donor.post_copy_wanted, to=(D.DECLARING_POST_COPY,)),
        on(ev.MigrationEnded, donor.migration_ended, to=(D.RETURNING,)),
    ),
    D.DECLARING_POST_COPY: (
        on(ev.Stored, donor.post_copy_declared, to=(D.POST_COPY_WANTED,)),
        on(ev.StoreFailed, donor.post_copy_not_declared, to=(D.MOVING,)),
    ),
    D.POST_COPY_WANTED: (
        on(ev.GuestSuspended, donor.suspended),
        on(ev.GuestResumed, donor.resumed),
        on(ev.PostCopyGranted, donor.post_copy_granted, to=(D.STARTING_POST_COPY,)),
        on(ev.PostCopyUnanswered, donor.post_copy_unanswered),
        on(ev.PostCopyDenied, donor.post_copy_denied),
        on(ev.FinishWanted, donor.finish_wanted, to=(D.DECLARING,)),
        on(ev.MigrationEnded, donor.ended_after_post_copy_was_wanted, to=(D.FREEZING,)),
    ),
    D.STARTING_POST_COPY: (
        on(ev.PostCopyStarted, donor.post_copy_started, to=(D.POST_COPY, D.DECLARING)),
        on(ev.PostCopyFailed, donor.post_copy_failed, to=(D.POST_COPY_WANTED, D.DECLARING)),
        on(ev.FinishWanted, donor.finish_waits),
        on(ev.MigrationEnded, donor.ended_after_post_copy_was_wanted, to=(D.FREEZING,)),
    ),
    D.POST_COPY: (
        on(ev.FinishWanted, donor.finish_wanted, to=(D.DECLARING,)),
        on(ev.MigrationEnded, donor.ended_after_post_copy_was_wanted, to=(D.FREEZING,)),
    ),
    D.DECLARING: (
        on(ev.Stored, donor.declared, to=_FREEZE_OR_PASS),
        on(ev.StoreFailed, donor.not_declared, to=(D.MOVING, *_FREEZE_OR_PASS)),
    ),
    D.FREEZING: (
        on(ev.Frozen, donor.frozen, to=(D.UNDECIDED, D.GIVING_BACK)),
        on(ev.FreezeFailed, donor.not_frozen, to=(D.MOVING, D.UNDECIDED, D.GIVING_BACK)),
    ),
    D.UNDECIDED: (
        on(ev.LedgerSaid, donor.judge, to=_DECIDED),
        on(ev.FinishAnswered, donor.judge, to=_DECIDED),
        on(ev.LaneLost, donor.judge, to=_DECIDED),
        on(ev.MigrationEnded, donor.judge, to=_DECIDED),
        on(ev.Aborted, donor.judge, to=_DECIDED),
        on(ev.CopyAsked, donor.copy_asked),
    ),
    D.KILLING: (
        on(ev.FrozenKilled, donor.frozen_killed, to=(D.LEAVING,)),
        on(ev.CopyAsked, donor.let_go),
    ),
    D.LEAVING: (
        on(ev.CopyAsked, donor.let_go),
        on(ev.MigrationEnded, donor.ended_after_leaving, to=(D.LEFT,)),
        on(ev.Destroyed, donor.cleared, to=(D.LEFT,)),
    ),
    D.LEFT: (on(ev.CopyAsked, donor.let_go),),
    D.GIVING_BACK: (
        on(ev.Stored, donor.given_back, to=(D.RETURNING,)),
        on(ev.StoreFailed, donor.given_back, to=(D.RETURNING,)),
    ),
    D.RETURNING: (
        on(ev.MigrationEnded, donor.ended_after_giving_back),
        on(ev.LibvirtSaid, donor.looked, to=(D.STAYED,)),
        on(ev.Destroyed, donor.ended_here),
    ),
    D.STAYED: (),
}

R = RecipientPhase

RECIPIENT_ANYWHERE: tuple[On, ...] = (
    on(ev.SwitchoverWanted, recipient.remember),
    on(ev.Trouble, recipient.remember),
    on(ev.FinishAnswered, recipient.remember),
    on(ev.Aborted, recipient.remember),
)
"""What counts later, in phases that do not list it themselves."""

RECIPIENT: Mapping[RecipientPhase, tuple[On, ...]] = {
    R.WAITING: (
        on(ev.Restarted, recipient.restarted, to=(R.STARTING, R.ARRIVED, R.KEPT, R.REMOVING)),
        on(ev.SwitchoverWanted, recipient.switchover_wanted, to=(R.DECLARING,)),
        on(ev.PostCopyAsked, recipient.post_copy_asked, to=(R.DECLARING,)),
        on(ev.Trouble, recipient.trouble, to=(R.REMOVING,)),
        on(ev.Aborted, recipient.aborted, to=(R.REMOVING,)),
        on(ev.Stopping, recipient.stopping, to=(R.REMOVING,)),
    ),
    R.DECLARING: (
        on(ev.Stored, recipient.declared, to=(R.ASKED,)),
        on(ev.StoreFailed, recipient.not_declared, to=(R.REFUSING, R.REMOVING)),
    ),
    R.ASKED: (
        on(ev.Granted, recipient.granted, to=(R.ACCEPTING, R.GRANTED, R.KEEPING)),
        on(ev.Denied, recipient.denied, to=(R.REFUSING, R.REMOVING)),
        on(ev.Aborted, recipient.aborted_while_asking, to=(R.REFUSING, R.REMOVING)),
        on(ev.Trouble, recipient.noted),
        on(ev.FinishAnswered, recipient.noted),
        on(ev.SwitchoverWanted, recipient.noted),
    ),
    R.GRANTED: (
        on(ev.SwitchoverWanted, recipient.finish_came, to=(R.ACCEPTING,)),
        on(ev.Trouble, recipient.lost_before_finish, to=(R.KEEPING,)),
        on(ev.FinishAnswered, recipient.lost_before_finish, to=(R.KEEPING,)),
        on(ev.Aborted, recipient.aborted_while_asking, to=(R.REFUSING, R.REMOVING)),
    ),
    R.ACCEPTING: (
        on(ev.Stored, recipient.accepted, to=(R.STARTING,)),
        on(ev.StoreFailed, recipient.not_accepted, to=(R.REFUSING, R.REMOVING)),
    ),
    R.STARTING: (
        on(ev.FinishAnswered, recipient.finish_answered, to=(R.ARRIVED,)),
        on(ev.GuestResumed, recipient.started),
        on(ev.Trouble, recipient.lost_while_starting),
        on(ev.LibvirtSaid, recipient.looked, to=(R.ARRIVED, R.KEEPING)),
        on(ev.Aborted, recipient.aborted_after_grant),
        on(ev.LedgerSaid, recipient.ledger_while_starting, to=(R.REMOVING,)),
    ),
    R.ARRIVED: (
        on(ev.Granted, recipient.granted_again_when_arrived),
        on(ev.Aborted, recipient.aborted_after_grant),
        on(ev.LedgerSaid, recipient.ledger_when_arrived, to=(R.REMOVING,)),
    ),
    R.KEEPING: (
        on(ev.Stored, recipient.kept, to=(R.KEPT,)),
        on(ev.StoreFailed, recipient.kept, to=(R.KEPT,)),
    ),
    R.KEPT: (
        on(ev.Granted, recipient.granted_again_when_kept),
        on(ev.Aborted, recipient.aborted, to=(R.REMOVING,)),
    ),
    R.REFUSING: (
        on(ev.FinishAnswered, recipient.refused, to=(R.REMOVING,)),
        on(ev.Trouble, recipient.refused, to=(R.REMOVING,)),
        on(ev.Aborted, recipient.refused, to=(R.REMOVING,)),
    ),
    R.REMOVING: (on(ev.Removed, recipient.removed, to=(R.GONE,)),),
    R.GONE: (),
}
