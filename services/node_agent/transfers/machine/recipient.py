"""The recipient's decisions: Finish only after the commit, and nothing removed that may have run here. Pure."""

from __future__ import annotations

from services.node_agent.state.journal import Phase
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import Decision, Guest, Recipient
from services.node_agent.transfers.machine.state import RecipientPhase as P

RecipientDecision = Decision[Recipient]

ABORTED = ("cancelled", "the transfer was stopped on request")
RESTARTED = ("node_agent_restarted", "the transfer was interrupted by a restart of the recipient's node agent")


def _go(state: Recipient, phase: P, *commands: do.Command) -> RecipientDecision:
    return Decision(state.with_(phase=phase), commands)


def _because(state: Recipient, code: str, detail: str) -> Recipient:
    """The first reason is the one that is told."""
    return state if state.trouble is not None else state.with_(trouble=(code, detail))


# A new process


def restarted(state: Recipient, event: ev.Restarted) -> RecipientDecision:
    """Finish was passed only if the journal says so: until then the guest here has never run."""
    state = _because(state, *RESTARTED)
    match event.phase:
        case Phase.FINISH_PASSED:
            return _go(state.with_(may_have_run=event.rebooted or event.ran), P.STARTING, do.LookAtGuest())
        case Phase.DONE:
            return _go(state, P.ARRIVED)
        case Phase.KEPT:
            return _go(state, P.KEPT)
        case _:
            return _go(state, P.REMOVING, do.Remove())


# Before the grant


def switchover_wanted(state: Recipient, _: ev.SwitchoverWanted) -> RecipientDecision:
    """Write down that the broker is asked, then ask it."""
    return _go(state.with_(finish_held=True), P.DECLARING, do.Store(Phase.SWITCHOVER_ASKED))


def post_copy_asked(state: Recipient, _: ev.PostCopyAsked) -> RecipientDecision:
    """The same, for a Finish that comes later."""
    return _go(state, P.DECLARING, do.Store(Phase.SWITCHOVER_ASKED))


def declared(state: Recipient, _: ev.Stored) -> RecipientDecision:
    """While the broker is silent it may have committed, so this question has no deadline."""
    return _go(state, P.ASKED, do.AskForVm())


def not_declared(state: Recipient, event: ev.StoreFailed) -> RecipientDecision:
    """Nothing was asked, so nothing was committed."""
    return _deny(state, "state_not_stored", f"the journal cannot be written: {event.reason}")


def granted(state: Recipient, _: ev.Granted) -> RecipientDecision:
    """Write down that Finish is passed, then pass it. Not to a libvirtd that has hung up: then the guest never runs."""
    if state.connection_over:
        return _keep(state)
    if not state.finish_held:
        return _go(state, P.GRANTED, do.GrantPostCopy())
    return _go(state, P.ACCEPTING, do.Store(Phase.FINISH_PASSED))


def _keep(state: Recipient) -> RecipientDecision:
    code, detail = state.trouble or ("finish_failed", "this host's libvirtd is gone")
    return _go(_because(state, code, detail), P.KEEPING, do.DenyFinish(code, detail), do.Store(Phase.KEPT))


def finish_came(state: Recipient, _: ev.SwitchoverWanted) -> RecipientDecision:
    """The guest stands at the donor. Only now may it run here, and only now is that written down."""
    return _go(state.with_(finish_held=True), P.ACCEPTING, do.Store(Phase.FINISH_PASSED))


def lost_before_finish(state: Recipient, event: ev.Trouble | ev.FinishAnswered) -> RecipientDecision:
    """No Finish will come: the guest has never run here, and the donor's copy is whole."""
    return _keep(remember(state, event).state)


def denied(state: Recipient, event: ev.Denied) -> RecipientDecision:
    """libvirt destroys the incomplete guest when it hears a cancelled Finish."""
    return _deny(state, event.code, event.detail)


def aborted_while_asking(state: Recipient, _: ev.Aborted) -> RecipientDecision:
    """The broker's abort excludes its grant."""
    return _deny(state, *ABORTED)


def _deny(state: Recipient, code: str, detail: str) -> RecipientDecision:
    state = _because(state, code, detail)
    if state.connection_over:
        return _go(state, P.REMOVING, do.DenyFinish(code, detail), do.Remove())
    return _go(state, P.REFUSING, do.DenyFinish(code, detail))


def trouble(state: Recipient, event: ev.Trouble) -> RecipientDecision:
    """The guest does not come, and has never run here."""
    return _go(_because(state, event.code, event.detail), P.REMOVING, do.Remove())


def aborted(state: Recipient, _: ev.Aborted) -> RecipientDecision:
    """The broker has decided that the VM is not this side's."""
    return _go(_because(state, *ABORTED), P.REMOVING, do.Remove())


def stopping(state: Recipient, _: ev.Stopping) -> RecipientDecision:
    """Nobody was asked yet: the port ends in order. Later, this process waits, and the next one goes on."""
    return trouble(state, ev.Trouble("cancelled", "the recipient's node agent is being stopped"))


def noted(state: Recipient, event: ev.Trouble | ev.FinishAnswered | ev.SwitchoverWanted) -> RecipientDecision:
    """The broker is asked, so its answer must be heard all the same."""
    return Decision(remember(state, event).state)


def refused(state: Recipient, _: ev.FinishAnswered | ev.Trouble | ev.Aborted) -> RecipientDecision:
    """libvirt has heard the cancelled Finish, or cannot hear it."""
    return _go(state, P.REMOVING, do.Remove())


# After the grant


def accepted(state: Recipient, _: ev.Stored) -> RecipientDecision:
    """From now on the guest may run here, whatever is heard of it."""
    if state.connection_over:
        return _go(state, P.STARTING, do.PassFinish(), do.LookAtGuest())
    return _go(state, P.STARTING, do.PassFinish())


def not_accepted(state: Recipient, event: ev.StoreFailed) -> RecipientDecision:
    """The next process would not know that the guest may have run: so it must not. The broker gives the VM back."""
    return _deny(state, "state_not_stored", f"the journal cannot be written: {event.reason}")


def finish_answered(state: Recipient, event: ev.FinishAnswered) -> RecipientDecision:
    """Without an error it runs. With one libvirt is asked: it keeps a running guest when it dies after starting it."""
    if event.error is None:
        return _go(state, P.ARRIVED, do.TellArrived())
    return Decision(_because(state, "finish_failed", event.error), (do.LookAtGuest(),))


def lost_while_starting(state: Recipient, event: ev.Trouble) -> RecipientDecision:
    """No answer will come any more."""
    return Decision(_because(state, event.code, event.detail), (do.LookAtGuest(),))


def looked(state: Recipient, event: ev.LibvirtSaid) -> RecipientDecision:
    """Only a proof ends it. A paused guest that was not seen starting may be about to; one that was, or that was
    paused after its start by libvirt's own word, has arrived: an operator or an I/O error has paused it. And a guest
    that is gone may have been started just before: libvirt's news of that can come after its answer."""
    was_gone, state = state.gone, state.with_(gone=event.guest is Guest.NOT_THERE)
    match event.guest:
        case Guest.RUNNING:
            return _go(state, P.ARRIVED, do.TellArrived())
        case Guest.PAUSED if state.started or event.ran:
            return _go(state, P.ARRIVED, do.TellArrived())
        case Guest.NOT_THERE if state.may_have_run or event.ran:
            return _go(state, P.ARRIVED, do.TellMayHaveRun())
        case Guest.NOT_THERE if was_gone:
            return _go(state, P.KEEPING, do.Store(Phase.KEPT))
        case _ if event.ran and not state.may_have_run:
            return Decision(state.with_(may_have_run=True), (do.NoteRan(), do.LookAtGuest(again=True)))
        case _:
            return Decision(state, (do.LookAtGuest(again=True),))


def started(state: Recipient, _: ev.GuestResumed) -> RecipientDecision:
    """libvirt says so before it answers Finish, or instead, where its QEMU dies at once."""
    return Decision(state.with_(may_have_run=True, started=True))


def kept(state: Recipient, _: ev.Stored | ev.StoreFailed) -> RecipientDecision:
    """Where it cannot be written down, the next process looks again and finds the same."""
    return _go(state, P.KEPT, do.TellNotHere())


def granted_again_when_kept(state: Recipient, _: ev.Granted) -> RecipientDecision:
    """The final no is final."""
    return Decision(state, (do.TellNotHere(),))


def granted_again_when_arrived(state: Recipient, _: ev.Granted) -> RecipientDecision:
    """It has arrived; whatever became of it since, it is this provider's."""
    return Decision(state, (do.TellArrived(),))


def aborted_after_grant(state: Recipient, _: ev.Aborted) -> RecipientDecision:
    """An abort may be late. Only the ledger takes a guest away that may have run here."""
    return Decision(state.with_(aborted=True), (do.AskLedger(),))


def ledger_while_starting(state: Recipient, event: ev.LedgerSaid) -> RecipientDecision:
    """The VM was given back: then what is here of it goes."""
    if state.aborted and _given_back(state, event):
        return aborted(state, ev.Aborted())
    return Decision(state)


def ledger_when_arrived(state: Recipient, event: ev.LedgerSaid) -> RecipientDecision:
    """Given back: it goes. Else the abort was late, and hears that the guest has arrived."""
    if not state.aborted:
        return Decision(state)
    if _given_back(state, event):
        return aborted(state, ev.Aborted())
    return Decision(state.with_(aborted=False), (do.TellArrived(),))


def _given_back(state: Recipient, event: ev.LedgerSaid) -> bool:
    said = event.state
    return not said.committed and said.owner != state.provider and said.epoch > state.epoch


# The end


def removed(state: Recipient, _: ev.Removed) -> RecipientDecision:
    """What could not be removed is named, and tried again."""
    return _go(state, P.GONE, do.TellRemoved())


def remember(
    state: Recipient, event: ev.Trouble | ev.FinishAnswered | ev.Aborted | ev.SwitchoverWanted
) -> RecipientDecision:
    """What is heard while a command is carried out counts afterwards."""
    match event:
        case ev.SwitchoverWanted():
            return Decision(state.with_(finish_held=True))
        case ev.Trouble(code, detail):
            return Decision(_because(state.with_(connection_over=True), code, detail))
        case ev.FinishAnswered(error):
            return Decision(
                _because(state.with_(connection_over=True), "finish_failed", error or "it was not asked for")
            )
        case ev.Aborted():
            return Decision(_because(state.with_(aborted=True), *ABORTED))
