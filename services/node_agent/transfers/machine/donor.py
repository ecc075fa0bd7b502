"""The donor's decisions: fence and declare before Finish goes out, then do as the ledger says. Pure."""

from __future__ import annotations

from services.node_agent.state.journal import Phase
from services.node_agent.switchover.verdict import Reply, Verdict, donor_verdict
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import Decision, Donor, Guest
from services.node_agent.transfers.machine.state import DonorPhase as P

DonorDecision = Decision[Donor]


def _go(state: Donor, phase: P, *commands: do.Command) -> DonorDecision:
    return Decision(state.with_(phase=phase), commands)


# A new process


def restarted(state: Donor, event: ev.Restarted) -> DonorDecision:
    """Fence first, then ask: whatever this host did meanwhile, a guest that may be elsewhere must not run here."""
    state = state.with_(migration_over=True, reason="the donor's node agent was restarted")
    if event.phase in {Phase.POST_COPY, Phase.FINISH_PASSED}:
        return _go(state, P.FREEZING, do.Freeze())
    return _go(state, P.RETURNING, do.Thaw(), do.AbortJob(), do.LookAtGuest())


# Before Finish


def suspended(state: Donor, _: ev.GuestSuspended) -> DonorDecision:
    """An operator wants it paused; it stays so if it stays here."""
    return Decision(state.with_(was_running=False))


def resumed(state: Donor, _: ev.GuestResumed) -> DonorDecision:
    """It runs, or an operator lets it run again."""
    return Decision(state.with_(was_running=True))


def finish_wanted(state: Donor, _: ev.FinishWanted) -> DonorDecision:
    """Write it down first: a process that dies with the guest fenced must find why. After an abort nothing goes out."""
    if state.aborted and not state.post_copy_wanted:
        return Decision(state, (do.RefuseFinish(state.reason),))
    return _go(state.with_(finish_waits=True), P.DECLARING, do.Store(Phase.FINISH_PASSED))


def migration_ended(state: Donor, event: ev.MigrationEnded) -> DonorDecision:
    """Without a Finish the guest is this host's, whatever libvirt left of it."""
    return _go(state.with_(reason=event.error or ""), P.RETURNING, do.LookAtGuest())


# Declaring and freezing


def declared(state: Donor, _: ev.Stored) -> DonorDecision:
    """Now the guest may be fenced; in post-copy it must not be, it has pages to send."""
    if state.post_copy:
        return _go(state, P.UNDECIDED, do.PassFinish())
    return _go(state, P.FREEZING, do.Freeze())


def not_declared(state: Donor, event: ev.StoreFailed) -> DonorDecision:
    """Finish does not go out, and libvirtd lets the guest run on; unless the journal says enough since post-copy was
    wanted."""
    if state.post_copy_wanted:
        return declared(state, ev.Stored())
    refused = state.with_(finish_waits=False, reason=f"the journal cannot be written: {event.reason}")
    return _go(refused, P.MOVING, do.RefuseFinish(refused.reason))


def frozen(state: Donor, _: ev.Frozen | ev.FreezeFailed) -> DonorDecision:
    """The broker may commit from now on. Without a Finish that waits there is nothing to commit, only to ask."""
    if state.aborted:
        return _go(state, P.GIVING_BACK, do.Store(Phase.RETURNING))
    if state.finish_waits:
        return _go(state, P.UNDECIDED, do.SayPaused(), do.PassFinish())
    return _go(state.with_(doubted=True), P.UNDECIDED, do.TellDoubt(state.reason), do.AskLedger())


def not_frozen(state: Donor, event: ev.FreezeFailed) -> DonorDecision:
    """A guest that may be unfenced does not leave; but what was declared earlier only the ledger takes back."""
    if state.finish_waits and not state.post_copy_wanted:
        refused = state.with_(finish_waits=False, reason=f"no fence: {event.reason}")
        return _go(refused, P.MOVING, do.Thaw(), do.RefuseFinish(refused.reason), do.Store(Phase.TRANSFERRING))
    return frozen(state, event)


# Post-copy


def post_copy_wanted(state: Donor, _: ev.PostCopyWanted) -> DonorDecision:
    """Write it down first: from now on nobody lets the guest run here without the ledger."""
    return _go(state, P.DECLARING_POST_COPY, do.Store(Phase.POST_COPY))


def post_copy_declared(state: Donor, _: ev.Stored) -> DonorDecision:
    """The guest runs on meanwhile, and is promised not to go on by itself once it stops."""
    return _go(state.with_(post_copy_wanted=True), P.POST_COPY_WANTED, do.SayPaused(), do.AskForPostCopy())


def post_copy_not_declared(state: Donor, _: ev.StoreFailed) -> DonorDecision:
    """Nothing was said: the migration goes on as it was, and it is tried again."""
    return _go(state, P.MOVING, do.WantPostCopyAgain())


def post_copy_granted(state: Donor, _: ev.PostCopyGranted) -> DonorDecision:
    """The broker has committed."""
    return _go(state, P.STARTING_POST_COPY, do.StartPostCopy())


def post_copy_unanswered(state: Donor, _: ev.PostCopyUnanswered) -> DonorDecision:
    """The broker may have committed, so the question cannot be dropped."""
    return Decision(state, (do.AskForPostCopy(again=True),))


def post_copy_denied(state: Donor, _: ev.PostCopyDenied) -> DonorDecision:
    """The port ends elsewhere; the migration goes on until then, and only the ledger lets the guest run here."""
    return Decision(state)


def post_copy_started(state: Donor, _: ev.PostCopyStarted) -> DonorDecision:
    """A Finish that came meanwhile may go its way."""
    state = state.with_(post_copy=True)
    if state.finish_waits:
        return _go(state, P.DECLARING, do.Store(Phase.FINISH_PASSED))
    return _go(state, P.POST_COPY)


def post_copy_failed(state: Donor, _: ev.PostCopyFailed) -> DonorDecision:
    """QEMU's own switchover may have been faster: then Finish waits, and the guest is fenced as ever."""
    if state.finish_waits:
        return _go(state, P.DECLARING, do.Store(Phase.FINISH_PASSED))
    return _go(state, P.POST_COPY_WANTED, do.AskForPostCopy(again=True))


def finish_waits(state: Donor, _: ev.FinishWanted) -> DonorDecision:
    """Whether to fence is known when libvirt has started post-copy or not."""
    return Decision(state.with_(finish_waits=True))


def ended_after_post_copy_was_wanted(state: Donor, event: ev.MigrationEnded) -> DonorDecision:
    """The ledger may have committed while the guest runs here: it stands still until the ledger says. Without a Finish
    it cannot run at the recipient, and libvirt may have been told to start post-copy in vain: the copy is whole."""
    state = state.with_(migration_over=True, finish_waits=False, post_copy=False, reason=event.error or "")
    return _go(state, P.FREEZING, do.Freeze())


# Undecided


def judge(state: Donor, event: ev.Event) -> DonorDecision:
    """Remember what was heard, and do as the ledger says, once it says something."""
    state = remember(state, event).state
    if isinstance(event, ev.FinishAnswered) and not _committed(state):
        state = state.with_(ledger=None)  # what the ledger said before may be older than a commit
    reply = Reply.NONE if state.pledged and state.reply is Reply.RUNS else state.reply
    verdict = donor_verdict(state.ledger, donor=state.provider, reply=reply, aborted=state.aborted)
    if verdict is Verdict.RUNS_THERE:
        if state.post_copy:
            return frozen_killed(state, ev.FrozenKilled())
        return _go(state, P.KILLING, do.KillFrozen())
    if verdict is Verdict.RUNS_HERE:
        return _go(state, P.GIVING_BACK, do.Store(Phase.RETURNING))
    match event:
        case ev.LaneLost() | ev.MigrationEnded() if state.reply is Reply.NONE:
            return _doubt(state)
        case ev.FinishAnswered():
            return Decision(state, (do.AskLedger(),))
        case ev.LedgerSaid() if state.reply is Reply.FAILED and not _committed(state):
            return _doubt(state)  # the broker could still commit: it must decide not to
    return Decision(state)


def _doubt(state: Donor) -> DonorDecision:
    if state.doubted:
        return Decision(state)
    return Decision(state.with_(doubted=True), (do.TellDoubt(state.reason), do.AskLedger()))


def _committed(state: Donor) -> bool:
    return state.ledger is not None and state.ledger.committed


def remember(state: Donor, event: ev.Event) -> DonorDecision:
    """What is heard while a command is carried out counts afterwards."""
    match event:
        case ev.LedgerSaid(said) if said.epoch >= state.heard_epoch:
            return Decision(state.with_(ledger=said, heard_epoch=said.epoch))
        case ev.FinishAnswered(error):
            reply = Reply.RUNS if error is None else Reply.FAILED
            return Decision(state.with_(reply=reply, reason=error or state.reason))
        case ev.LaneLost(reason):
            return Decision(state.with_(reason=reason))
        case ev.MigrationEnded(error):
            # libvirtd has hung up: nobody waits for an answer any more.
            reason = error or state.reason
            return Decision(state.with_(migration_over=True, finish_waits=False, reason=reason))
        case ev.Aborted():
            return Decision(state.with_(aborted=True, reason=state.reason or "the broker stopped the port"))
    return Decision(state)


def copy_asked(state: Donor, _: ev.CopyAsked) -> DonorDecision:
    """The copy is promised to the broker, whatever the recipient says meanwhile: where the guest never ran there, this
    host's disks are the newest, also in post-copy."""
    return Decision(state.with_(pledged=True), (do.SayCopy(let_go=False),))


def let_go(state: Donor, _: ev.CopyAsked) -> DonorDecision:
    """The guest ran at the recipient, so the copy was killed."""
    return Decision(state, (do.SayCopy(let_go=True),))


# It has left


def frozen_killed(state: Donor, _: ev.FrozenKilled) -> DonorDecision:
    """Nothing of the guest can run here any more: now libvirtd may hear it, and clear what it has."""
    answer = do.Answer(runs_there=True)
    if state.migration_over:
        return _go(state, P.LEAVING, answer, do.Destroy())
    return _go(state, P.LEAVING, answer)


def ended_after_leaving(state: Donor, event: ev.MigrationEnded) -> DonorDecision:
    """libvirt has cleared its copy, or reports an error: then that is done for it."""
    if event.error is None:
        return _go(state, P.LEFT, do.Left())
    return Decision(state, (do.Destroy(),))


def cleared(state: Donor, _: ev.Destroyed) -> DonorDecision:
    """The guest is gone from this host's libvirt, too."""
    return _go(state, P.LEFT, do.Left())


# It stays


def given_back(state: Donor, _: ev.Stored | ev.StoreFailed) -> DonorDecision:
    """Let it run. Where that could not be written down, the next process asks the ledger again and hears the same."""
    answer = do.Answer(runs_there=False, reason=state.reason)
    if state.migration_over:
        return _go(state, P.RETURNING, do.Thaw(), answer, do.LookAtGuest())
    return _go(state, P.RETURNING, do.Thaw(), answer)


def ended_after_giving_back(state: Donor, event: ev.MigrationEnded) -> DonorDecision:
    """libvirt has resumed its copy, or has left it as it was."""
    return Decision(state.with_(reason=event.error or state.reason), (do.LookAtGuest(),))


def looked(state: Donor, event: ev.LibvirtSaid) -> DonorDecision:
    """The port is over here when the guest is seen running, or proven gone, or paused as an operator wants it."""
    match event.guest:
        case Guest.RUNNING:
            return _go(state, P.STAYED, do.Stayed(running=True))
        case Guest.NOT_THERE:
            return _go(state, P.STAYED, do.Stayed(running=False))
        case Guest.PAUSED if not state.was_running:
            return _go(state, P.STAYED, do.Stayed(running=False))
        case Guest.PAUSED:
            return Decision(state, (do.Thaw(), do.Resume(), do.LookAtGuest(again=True)))
        case Guest.LEFT_BEHIND:
            return Decision(state, (do.Destroy(),))
        case Guest.UNKNOWN:
            return Decision(state, (do.LookAtGuest(again=True),))


def ended_here(state: Donor, _: ev.Destroyed) -> DonorDecision:
    """What post-copy has left behind is gone; the VM can be started from its disks."""
    return Decision(state, (do.LookAtGuest(),))
