"""The recipient's decisions, edge by edge."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.node_agent.state.journal import Phase
from services.node_agent.transfers.machine import Guest, Recipient, step
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import RecipientPhase as P
from shared.messages.porting import SwitchoverState

OPEN = Recipient("beta", epoch=2)
FULL = "the journal cannot be written: full"


def said(*, committed: bool, epoch: int | None = None) -> ev.LedgerSaid:
    """The ledger's word; what was given back has the next epoch."""
    owner = "beta" if committed else "alpha"
    epoch = epoch or (2 if committed else 3)
    state = SwitchoverState(port_id=UUID(int=1), committed=committed, owner=owner, epoch=epoch, ended=False)
    return ev.LedgerSaid(state)


def after(*events: ev.Event, start: Recipient = OPEN) -> tuple[Recipient, tuple[do.Command, ...]]:
    """The state after these events, and the last one's commands."""
    state = start
    commands: tuple[do.Command, ...] = ()
    for event in events:
        decision = step(state, event)
        state, commands = decision.state, decision.commands
    return state, commands


ASKED = after(ev.SwitchoverWanted(), ev.Stored())[0]
STARTING = after(ev.Granted(), ev.Stored(), start=ASKED)[0]
ARRIVED = after(ev.FinishAnswered(None), start=STARTING)[0]
GONE = (ev.LibvirtSaid(Guest.NOT_THERE), ev.LibvirtSaid(Guest.NOT_THERE))
"""Two looks: a proof that it never ran, where nothing shows that it did."""
KEPT = after(ev.FinishAnswered("no"), *GONE, ev.Stored(), start=STARTING)[0]


def test_each_step_is_written_down_before_it_is_taken() -> None:
    """The question, and then what the grant allows."""
    state, commands = after(ev.SwitchoverWanted())
    assert (state.phase, commands) == (P.DECLARING, (do.Store(Phase.SWITCHOVER_ASKED),))
    state, commands = after(ev.Stored(), start=state)
    assert (state.phase, commands) == (P.ASKED, (do.AskForVm(),))
    state, commands = after(ev.Granted(), start=state)
    assert (state.phase, commands) == (P.ACCEPTING, (do.Store(Phase.FINISH_PASSED),))
    state, commands = after(ev.Stored(), start=state)
    assert (state.phase, commands) == (P.STARTING, (do.PassFinish(),))
    assert after(ev.FinishAnswered(None), start=state)[1] == (do.TellArrived(),)


@pytest.mark.parametrize("events", [(ev.SwitchoverWanted(),), (ev.SwitchoverWanted(), ev.Stored(), ev.Granted())])
def test_a_full_disk_lets_no_guest_run(events: tuple[ev.Event, ...]) -> None:
    """The next process would not know of it."""
    state, commands = after(*events, ev.StoreFailed("full"))
    assert (state.phase, commands) == (P.REFUSING, (do.DenyFinish("state_not_stored", FULL),))
    assert after(ev.FinishAnswered("cancelled"), start=state)[1] == (do.Remove(),)


def test_a_denial_cancels_finish_and_removes_what_was_made() -> None:
    """The reason is the broker's, whatever libvirt says of the cancelled Finish."""
    state, commands = after(ev.Denied("cancelled", "the tenant"), start=ASKED)
    assert (state.phase, commands) == (P.REFUSING, (do.DenyFinish("cancelled", "the tenant"),))
    state, commands = after(ev.FinishAnswered("aborted"), start=state)
    assert (state.phase, commands) == (P.REMOVING, (do.Remove(),))
    state, commands = after(ev.Removed(), start=state)
    assert (state.phase, commands, state.trouble) == (P.GONE, (do.TellRemoved(),), ("cancelled", "the tenant"))


def test_a_guest_that_was_paused_after_its_start_has_arrived() -> None:
    """By an operator or an I/O error, and libvirtd's answer is lost. One that was not seen starting may be about to."""
    lost = ev.FinishAnswered("libvirtd has gone")
    state, commands = after(ev.GuestResumed(), lost, ev.LibvirtSaid(Guest.PAUSED), start=STARTING)
    assert (state.phase, commands) == (P.ARRIVED, (do.TellArrived(),))
    assert after(lost, ev.LibvirtSaid(Guest.PAUSED, ran=True), start=STARTING)[1][-1] == do.TellArrived()
    state, commands = after(lost, ev.LibvirtSaid(Guest.PAUSED), start=STARTING)
    assert (state.phase, commands) == (P.STARTING, (do.LookAtGuest(again=True),))


GRANTED = after(ev.PostCopyAsked(), ev.Stored(), ev.Granted())[0]


def test_a_grant_for_post_copy_is_used_when_finish_comes() -> None:
    """Until then the guest runs at the donor, and it is not written down that it may run here."""
    state, commands = after(ev.PostCopyAsked())
    assert (state.phase, commands) == (P.DECLARING, (do.Store(Phase.SWITCHOVER_ASKED),))
    state, commands = after(ev.Stored(), ev.Granted(), start=state)
    assert (state, commands) == (GRANTED, (do.GrantPostCopy(),))
    state, commands = after(ev.SwitchoverWanted(), start=state)
    assert (state.phase, commands) == (P.ACCEPTING, (do.Store(Phase.FINISH_PASSED),))
    assert after(ev.Stored(), start=state)[1] == (do.PassFinish(),)


@pytest.mark.parametrize("before", [(ev.SwitchoverWanted(), ev.Stored()), (ev.Stored(), ev.SwitchoverWanted())])
def test_a_finish_that_comes_before_the_grant_is_not_waited_for_again(before: tuple[ev.Event, ...]) -> None:
    """The guest stopped by itself while post-copy was asked for."""
    asked = after(ev.PostCopyAsked(), *before)[0]
    assert asked.phase is P.ASKED
    assert after(ev.Granted(), start=asked)[1] == (do.Store(Phase.FINISH_PASSED),)


@pytest.mark.parametrize("event", [ev.Trouble("donor_left", "gone"), ev.FinishAnswered("gone")])
def test_without_a_finish_a_granted_guest_never_ran_here(event: ev.Event) -> None:
    """The final no, at once: the donor's copy runs, or is whole."""
    state, commands = after(event, start=GRANTED)
    assert (state.phase, commands[1]) == (P.KEEPING, do.Store(Phase.KEPT))
    assert isinstance(commands[0], do.DenyFinish)
    assert after(ev.Stored(), start=state)[1] == (do.TellNotHere(),)


def test_an_abort_after_a_grant_for_post_copy_denies_its_finish() -> None:
    """It has not come, so nothing can have run."""
    state, commands = after(ev.Aborted(), start=GRANTED)
    assert (state.phase, commands) == (P.REFUSING, (do.DenyFinish("cancelled", "the transfer was stopped on request"),))


def test_a_denial_without_a_finish_ends_with_the_donor() -> None:
    """Post-copy was asked for, and libvirtd has nothing to answer."""
    state = after(ev.Denied("cancelled", "the tenant"), start=ASKED)[0]
    assert after(ev.Trouble("donor_left", "gone"), start=state)[1] == (do.Remove(),)


@pytest.mark.parametrize(
    ("event", "code"),
    [(ev.Trouble("lane_failed", "x"), "lane_failed"), (ev.Aborted(), "cancelled"), (ev.Stopping(), "cancelled")],
)
def test_before_the_question_anything_ends_it(event: ev.Event, code: str) -> None:
    """The guest here has never run; the reason is kept for the broker."""
    state, commands = after(event)
    assert commands == (do.Remove(),)
    assert state.trouble is not None
    assert state.trouble[0] == code


def test_while_the_broker_is_asked_only_the_broker_ends_it() -> None:
    """It may have committed: neither a lost lane nor a stop of this process may answer for it."""
    for event in (ev.Trouble("lane_failed", "x"), ev.Stopping(), ev.FinishAnswered("x")):
        state, commands = after(event, start=ASKED)
        assert (state.phase, commands) == (P.ASKED, ())


@pytest.mark.parametrize("event", [ev.Trouble("lane_failed", "x"), ev.FinishAnswered("libvirtd has gone")])
def test_an_answer_of_the_broker_is_followed_although_libvirtd_has_gone(event: ev.Event) -> None:
    """Nothing more is waited for: no answer to a cancelled Finish. A granted one is not passed, so the guest never ran:
    what a restart of the host leaves behind in that instant is no riddle.
    """
    state = after(event, start=ASKED)[0]
    assert after(ev.Denied("no", "no"), start=state)[1] == (do.DenyFinish("no", "no"), do.Remove())
    trouble = state.trouble
    assert trouble is not None
    state, commands = after(ev.Granted(), start=state)
    assert (state.phase, commands) == (P.KEEPING, (do.DenyFinish(*trouble), do.Store(Phase.KEPT)))
    assert after(ev.Stored(), start=state)[1] == (do.TellNotHere(),)


def test_what_libvirtd_does_while_the_journal_is_written_is_looked_for() -> None:
    """The grant is written down as passed, and libvirtd has hung up meanwhile."""
    state, commands = after(ev.Granted(), ev.Trouble("lane_failed", "x"), ev.Stored(), start=ASKED)
    assert (state.phase, commands) == (P.STARTING, (do.PassFinish(), do.LookAtGuest()))


def test_an_abort_while_asking_denies() -> None:
    """And ends a wait for libvirt's answer to the cancelled Finish."""
    assert after(ev.Aborted(), start=ASKED)[1] == (do.DenyFinish("cancelled", "the transfer was stopped on request"),)


@pytest.mark.parametrize(
    ("event", "trouble"),
    [
        (ev.FinishAnswered("broken"), ("finish_failed", "broken")),
        (ev.Trouble("lane_failed", "x"), ("lane_failed", "x")),
    ],
)
def test_after_the_grant_libvirt_is_asked_until_there_is_a_proof(event: ev.Event, trouble: tuple[str, str]) -> None:
    """A paused guest may have run; unknown is not "no"."""
    state, commands = after(event, start=STARTING)
    assert (state.phase, commands, state.trouble) == (P.STARTING, (do.LookAtGuest(),), trouble)
    for guest in (Guest.UNKNOWN, Guest.PAUSED):
        assert after(ev.LibvirtSaid(guest), start=state) == (state, (do.LookAtGuest(again=True),))
    assert after(ev.LibvirtSaid(Guest.RUNNING), start=state)[1] == (do.TellArrived(),)
    state, commands = after(*GONE, start=state)
    assert (state.phase, commands) == (P.KEEPING, (do.Store(Phase.KEPT),))


@pytest.mark.parametrize("event", [ev.FinishAnswered("broken"), ev.Trouble("donor_left", "x")])
def test_one_look_without_a_guest_is_no_proof(event: ev.Event) -> None:
    """It may have been started and have ended, and libvirt's news of its start may still be on its way."""
    once, commands = after(event, ev.LibvirtSaid(Guest.NOT_THERE), start=STARTING)
    assert (once.phase, commands) == (P.STARTING, (do.LookAtGuest(again=True),))
    state, commands = after(ev.GuestResumed(), ev.LibvirtSaid(Guest.NOT_THERE), start=once)
    assert (state.phase, commands) == (P.ARRIVED, (do.TellMayHaveRun(),))


@pytest.mark.parametrize("between", [Guest.UNKNOWN, Guest.PAUSED])
def test_two_looks_without_a_guest_count_only_in_a_row(between: Guest) -> None:
    """What libvirt said before it was away, or before it saw the guest again, counts no more."""
    seen = (ev.LibvirtSaid(Guest.NOT_THERE), ev.LibvirtSaid(between), ev.LibvirtSaid(Guest.NOT_THERE))
    state, commands = after(*seen, start=STARTING)
    assert (state.phase, commands) == (P.STARTING, (do.LookAtGuest(again=True),))
    assert after(ev.LibvirtSaid(Guest.NOT_THERE), start=state)[0].phase is P.KEEPING


@pytest.mark.parametrize("stored", [ev.Stored(), ev.StoreFailed("full")])
def test_a_guest_that_is_proven_gone_is_told_and_everything_kept(stored: ev.Event) -> None:
    """Until the broker's abort."""
    keeping = after(ev.FinishAnswered("no"), *GONE, start=STARTING)[0]
    state, commands = after(stored, start=keeping)
    assert (state.phase, commands) == (P.KEPT, (do.TellNotHere(),))
    assert after(ev.Granted(), start=state) == (state, (do.TellNotHere(),))
    assert after(ev.LibvirtSaid(Guest.RUNNING), start=state) == (state, ())
    assert after(ev.Aborted(), start=state)[1] == (do.Remove(),)


@pytest.mark.parametrize("start", [STARTING, ARRIVED])
def test_an_abort_after_the_grant_asks_the_ledger(start: Recipient) -> None:
    """Only what was given back is removed."""
    state, commands = after(ev.Aborted(), start=start)
    assert (state.phase, commands) == (start.phase, (do.AskLedger(),))
    assert after(said(committed=False), start=state)[1] == (do.Remove(),)
    late, commands = after(said(committed=True), start=state)
    assert late.phase is start.phase
    assert commands == ((do.TellArrived(),) if start is ARRIVED else ())


def test_a_late_abort_is_over_when_the_ledger_has_spoken() -> None:
    """A word that comes afterwards, perhaps an old one, removes nothing."""
    state = after(ev.Aborted(), said(committed=True), start=ARRIVED)[0]
    assert after(said(committed=False), start=state) == (ARRIVED, ())


@pytest.mark.parametrize(("committed", "owner"), [(True, "alpha"), (False, "beta")])
@pytest.mark.parametrize("start", [STARTING, ARRIVED])
def test_only_a_vm_that_was_given_back_to_another_is_removed(
    start: Recipient,
    committed: bool,  # noqa: FBT001  # a row's value
    owner: str,
) -> None:
    """The commit must be taken back, and the VM be somebody else's."""
    word = ev.LedgerSaid(said(committed=committed).state.model_copy(update={"owner": owner}))
    assert after(ev.Aborted(), word, start=start)[0].phase is start.phase


@pytest.mark.parametrize("start", [STARTING, ARRIVED])
def test_the_ledgers_word_alone_removes_nothing(start: Recipient) -> None:
    """It may be an old one."""
    assert after(said(committed=False), start=start) == (start, ())


def test_a_repeated_grant_hears_of_the_arrival_again() -> None:
    """Whatever became of the guest."""
    assert after(ev.Granted(), start=ARRIVED) == (ARRIVED, (do.TellArrived(),))


@pytest.mark.parametrize(
    ("phase", "reached", "commands"),
    [
        (Phase.PREPARING, P.REMOVING, (do.Remove(),)),
        (Phase.OPEN, P.REMOVING, (do.Remove(),)),
        (Phase.SWITCHOVER_ASKED, P.REMOVING, (do.Remove(),)),
        (Phase.FINISH_PASSED, P.STARTING, (do.LookAtGuest(),)),
        (Phase.DONE, P.ARRIVED, ()),
        (Phase.KEPT, P.KEPT, ()),
        (Phase.FAILED, P.REMOVING, (do.Remove(),)),
    ],
)
def test_a_restart_goes_on_from_the_journal(phase: Phase, reached: P, commands: tuple[do.Command, ...]) -> None:
    """Only what never ran is removed."""
    state, wanted = after(ev.Restarted(phase))
    assert (state.phase, wanted) == (reached, commands)


def test_what_is_heard_while_the_journal_is_written_counts_afterwards() -> None:
    """The first reason is told in the end."""
    state, commands = after(ev.SwitchoverWanted(), ev.Trouble("lane_failed", "x"), ev.Trouble("other", "y"))
    assert (state.trouble, commands) == (("lane_failed", "x"), ())
    assert after(ev.Granted(), ev.Aborted(), start=ASKED)[0].aborted


@pytest.mark.parametrize(("error", "detail"), [("broken", "broken"), (None, "it was not asked for")])
def test_an_answer_to_a_finish_that_was_not_passed_is_a_trouble(error: str | None, detail: str) -> None:
    """libvirtd cannot run a guest whose Finish is held here; nothing is waited for any more."""
    state = after(ev.FinishAnswered(error), start=ASKED)[0]
    assert (state.phase, state.connection_over, state.trouble) == (P.ASKED, True, ("finish_failed", detail))


@pytest.mark.parametrize("start", [STARTING, ARRIVED])
@pytest.mark.parametrize("epoch", [1, 2])
def test_only_a_newer_epoch_takes_a_guest_away(start: Recipient, epoch: int) -> None:
    """What is older comes late, or from a ledger that was restored."""
    state = after(ev.Aborted(), start=start)[0]
    assert after(said(committed=False, epoch=epoch), start=state)[0].phase is start.phase


def test_after_a_restart_of_the_host_no_guest_proves_nothing() -> None:
    """Finish was passed: it may have run, and it is this provider's."""
    state = after(ev.Restarted(Phase.FINISH_PASSED, rebooted=True))[0]
    assert after(ev.LibvirtSaid(Guest.UNKNOWN), start=state)[1] == (do.LookAtGuest(again=True),)
    state, commands = after(ev.LibvirtSaid(Guest.NOT_THERE), start=state)
    assert (state.phase, commands) == (P.ARRIVED, (do.TellMayHaveRun(),))
    same_boot = after(ev.Restarted(Phase.FINISH_PASSED), *GONE)[0]
    assert same_boot.phase is P.KEEPING


def test_before_finish_was_passed_a_restart_of_the_host_changes_nothing() -> None:
    """The guest has never run."""
    assert after(ev.Restarted(Phase.SWITCHOVER_ASKED, rebooted=True))[1] == (do.Remove(),)


@pytest.mark.parametrize("error", ["QEMU is gone", "this host's libvirtd ended the connection"])
def test_a_guest_that_was_seen_starting_has_run(error: str) -> None:
    """QEMU died at once; libvirtd answered with an error, or not at all."""
    state = after(ev.GuestResumed(), ev.FinishAnswered(error), start=STARTING)[0]
    state, commands = after(ev.LibvirtSaid(Guest.NOT_THERE), start=state)
    assert (state.phase, commands) == (P.ARRIVED, (do.TellMayHaveRun(),))
    assert after(ev.GuestResumed(), ev.FinishAnswered(None), start=STARTING)[1] == (do.TellArrived(),)


def test_what_ran_while_libvirt_was_away_is_written_down_and_not_given_back() -> None:
    """Its process shows it; once libvirt is back, there is no guest."""
    state = after(ev.Trouble("finish_failed", "libvirtd is gone"), start=STARTING)[0]
    state, commands = after(ev.LibvirtSaid(Guest.UNKNOWN, ran=True), start=state)
    assert commands == (do.NoteRan(), do.LookAtGuest(again=True))
    assert after(ev.LibvirtSaid(Guest.UNKNOWN, ran=True), start=state) == (state, (do.LookAtGuest(again=True),))
    state, commands = after(ev.LibvirtSaid(Guest.NOT_THERE), start=state)
    assert (state.phase, commands) == (P.ARRIVED, (do.TellMayHaveRun(),))


def test_what_a_former_process_noted_still_counts() -> None:
    """libvirt has no guest, and the host was not restarted."""
    state = after(ev.Restarted(Phase.FINISH_PASSED, ran=True))[0]
    assert after(ev.LibvirtSaid(Guest.NOT_THERE), start=state)[1] == (do.TellMayHaveRun(),)


@pytest.mark.parametrize("start", [STARTING, after(ev.Restarted(Phase.FINISH_PASSED))[0]])
def test_a_guest_that_ended_by_itself_may_have_run(start: Recipient) -> None:
    """libvirt has told its hook so, whether this process lived then or not; the first look is enough."""
    state, commands = after(ev.LibvirtSaid(Guest.NOT_THERE, ran=True), start=start)
    assert (state.phase, commands) == (P.ARRIVED, (do.TellMayHaveRun(),))
