"""The donor's decisions, edge by edge."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from services.node_agent.state.journal import Phase
from services.node_agent.switchover.verdict import Reply
from services.node_agent.transfers.machine import Donor, Guest, step
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import DonorPhase as P
from shared.messages.porting import SwitchoverState

HERE, FENCED = Donor("alpha", was_running=True), ev.Frozen(fenced=True)


def said(
    *, committed: bool, arrived: bool = False, ended: bool = False, ready: bool = False, epoch: int = 2
) -> ev.LedgerSaid:
    """The ledger's word."""
    owner = "beta" if committed else "alpha"
    return ev.LedgerSaid(
        SwitchoverState(
            port_id=UUID(int=1),
            committed=committed,
            owner=owner,
            epoch=epoch,
            arrived=arrived,
            ended=ended,
            ready=ready,
        )
    )


def after(*events: ev.Event, start: Donor = HERE) -> tuple[Donor, tuple[do.Command, ...]]:
    """The state after these events, and the last one's commands."""
    state = start
    commands: tuple[do.Command, ...] = ()
    for event in events:
        decision = step(state, event)
        state, commands = decision.state, decision.commands
    return state, commands


IN_FINISH = after(ev.FinishWanted(), ev.Stored(), FENCED)[0]
IN_POST_COPY = after(ev.PostCopyWanted(), ev.Stored(), ev.PostCopyGranted(), ev.PostCopyStarted())[0]


def test_finish_is_declared_then_fenced_then_said_and_passed() -> None:
    """In this order, each when the one before is certain."""
    state, commands = after(ev.FinishWanted())
    assert (state.phase, commands) == (P.DECLARING, (do.Store(Phase.FINISH_PASSED),))
    state, commands = after(ev.Stored(), start=state)
    assert (state.phase, commands) == (P.FREEZING, (do.Freeze(),))
    state, commands = after(FENCED, start=state)
    assert (state.phase, commands) == (P.UNDECIDED, (do.SayPaused(), do.PassFinish()))


def test_a_full_disk_refuses_finish() -> None:
    """Nothing is fenced, and the guest is this host's."""
    state, commands = after(ev.FinishWanted(), ev.StoreFailed("no space"))
    assert (state.phase, state.finish_waits) == (P.MOVING, False)
    assert commands == (do.RefuseFinish("the journal cannot be written: no space"),)


def test_an_unknown_fence_refuses_finish() -> None:
    """And the journal is put back, as far as it can be written."""
    state, commands = after(ev.FinishWanted(), ev.Stored(), ev.FreezeFailed("?"))
    assert state.phase is P.MOVING
    assert commands == (do.Thaw(), do.RefuseFinish("no fence: ?"), do.Store(Phase.TRANSFERRING))


def test_a_refused_finish_leaves_nothing_behind() -> None:
    """The migration can go on as if there had been none, post-copy included."""
    for refused in ((ev.StoreFailed("full"),), (ev.Stored(), ev.FreezeFailed("?"))):
        state = after(ev.FinishWanted(), *refused)[0]
        assert state == replace(HERE, reason=state.reason)


def test_a_finish_whose_libvirtd_goes_while_the_guest_is_being_fenced_does_not_go_out() -> None:
    """Nobody waits for its answer: there is nothing to commit, only to ask."""
    state, commands = after(ev.FinishWanted(), ev.Stored(), ev.MigrationEnded("libvirtd is gone"), FENCED)
    assert (state.phase, commands) == (P.UNDECIDED, (do.TellDoubt("libvirtd is gone"), do.AskLedger()))
    assert (state.finish_waits, state.doubted) == (False, True)


def test_a_host_without_a_fence_lets_the_guest_leave() -> None:
    """libvirt has paused it; what is missing is protection from this agent's own death."""
    assert after(ev.FinishWanted(), ev.Stored(), ev.Frozen(fenced=False))[1] == (do.SayPaused(), do.PassFinish())


def test_after_an_abort_finish_does_not_go_out() -> None:
    """The broker has decided not to commit."""
    state, commands = after(ev.Aborted(), ev.FinishWanted())
    assert (state.phase, commands) == (P.MOVING, (do.RefuseFinish("the broker stopped the port"),))


def test_an_abort_while_the_guest_is_being_fenced_gives_it_back() -> None:
    """Nothing goes out, and nothing is said to the broker."""
    state, commands = after(ev.FinishWanted(), ev.Stored(), ev.Aborted(), FENCED)
    assert (state.phase, commands) == (P.GIVING_BACK, (do.Store(Phase.RETURNING),))


@pytest.mark.parametrize(
    "events",
    [
        (said(committed=True), ev.FinishAnswered(None)),
        (ev.FinishAnswered(None), said(committed=True)),
        (said(committed=True, arrived=True),),
        (said(committed=True, ended=True),),
        (ev.LaneLost("gone"), said(committed=True, arrived=True)),
    ],
)
def test_a_guest_that_runs_there_is_killed_here(events: tuple[ev.Event, ...]) -> None:
    """By the ledger's commit and one word that it runs, in any order; libvirtd hears it afterwards."""
    state, commands = after(*events, start=IN_FINISH)
    assert (state.phase, commands) == (P.KILLING, (do.KillFrozen(),))
    state, commands = after(ev.FrozenKilled(), start=state)
    assert (state.phase, commands) == (P.LEAVING, (do.Answer(runs_there=True),))
    assert after(ev.MigrationEnded(None), start=state)[1] == (do.Left(),)


@pytest.mark.parametrize(
    "events",
    [
        (ev.FinishAnswered(None),),
        (ev.FinishAnswered(None), said(committed=False, ready=True)),
        (said(committed=True),),
        (said(committed=True), ev.FinishAnswered("no")),
        (said(committed=False),),
        (ev.FinishAnswered("no"), said(committed=False, ready=True)),
        (ev.LaneLost("gone"), said(committed=False)),
        (said(committed=True, epoch=3), said(committed=False, ended=True, epoch=2)),
    ],
)
def test_without_both_words_the_guest_stands_still(events: tuple[ev.Event, ...]) -> None:
    """The recipient's word alone kills nothing, and the ledger's silence lets nothing run."""
    assert after(*events, start=IN_FINISH)[0].phase is P.UNDECIDED


@pytest.mark.parametrize("ready", [True, False])
def test_a_finish_that_is_on_its_way_is_not_doubted(ready: bool) -> None:  # noqa: FBT001  # a row's value
    """The ledger has not committed yet, and the answer is still to come."""
    assert after(said(committed=False, ready=ready), start=IN_FINISH)[1] == ()


def test_a_vm_that_the_ledger_gives_to_this_side_is_not_killed() -> None:
    """Committed or not: what counts is the owner."""
    word = said(committed=True, ended=True)
    mine = ev.LedgerSaid(word.state.model_copy(update={"owner": "alpha"}))
    assert after(mine, start=IN_FINISH)[0].phase is P.GIVING_BACK


def test_the_recipients_word_asks_the_ledger() -> None:
    """At once; nothing is asked where the ledger has spoken already."""
    assert after(ev.FinishAnswered(None), start=IN_FINISH)[1] == (do.AskLedger(),)


@pytest.mark.parametrize("event", [ev.LaneLost("gone"), ev.MigrationEnded("gone")])
def test_a_lost_answer_is_doubted_once(event: ev.Event) -> None:
    """The broker stops the port if it still can."""
    state, commands = after(event, start=IN_FINISH)
    assert commands == (do.TellDoubt("gone"), do.AskLedger())
    assert after(event, start=state)[1] == ()


@pytest.mark.parametrize("error", ["no", None])
def test_a_lane_that_goes_after_the_answer_raises_no_doubt(error: str | None) -> None:
    """The ledger is asked already, and nothing else is missing."""
    assert after(ev.FinishAnswered(error), ev.LaneLost("gone"), start=IN_FINISH)[1] == ()


def test_a_failed_finish_is_doubted_while_the_broker_could_commit() -> None:
    """Its "not yet" is no "no"."""
    state, commands = after(ev.FinishAnswered("no"), said(committed=False, ready=True), start=IN_FINISH)
    assert commands == (do.TellDoubt("no"), do.AskLedger())
    assert after(said(committed=False), start=state)[0].phase is P.GIVING_BACK


@pytest.mark.parametrize("stored", [ev.Stored(), ev.StoreFailed("full")])
@pytest.mark.parametrize("event", [ev.Aborted(), said(committed=False, ended=True)])
def test_a_guest_that_is_given_back_runs_on(event: ev.Event, stored: ev.Event) -> None:
    """Whether that could be written down or not."""
    state, commands = after(event, start=IN_FINISH)
    assert (state.phase, commands) == (P.GIVING_BACK, (do.Store(Phase.RETURNING),))
    state, commands = after(stored, start=state)
    assert state.phase is P.RETURNING
    assert commands == (do.Thaw(), do.Answer(runs_there=False, reason=state.reason))
    assert after(ev.MigrationEnded("refused"), start=state)[1] == (do.LookAtGuest(),)


def test_what_libvirtd_does_not_hear_any_more_is_done_for_it() -> None:
    """It was restarted, and hung on the stopped process."""
    state, commands = after(ev.MigrationEnded("gone"), said(committed=True, arrived=True), start=IN_FINISH)
    assert commands == (do.KillFrozen(),)
    state, commands = after(ev.FrozenKilled(), start=state)
    assert commands == (do.Answer(runs_there=True), do.Destroy())
    assert after(ev.Destroyed(), start=state)[1] == (do.Left(),)
    state, commands = after(ev.MigrationEnded("gone"), ev.Aborted(), ev.Stored(), start=IN_FINISH)
    assert commands == (do.Thaw(), do.Answer(runs_there=False, reason="gone"), do.LookAtGuest())


def test_an_error_after_leaving_is_cleared_up() -> None:
    """libvirt could not end its copy by itself."""
    state = after(said(committed=True, arrived=True), ev.FrozenKilled(), start=IN_FINISH)[0]
    assert after(ev.MigrationEnded("cannot talk to QEMU"), start=state)[1] == (do.Destroy(),)


# Whether the guest runs again


def test_a_failed_migration_ends_when_the_guest_is_seen_running() -> None:
    """libvirt is asked until it answers, and does what it left undone."""
    state, commands = after(ev.MigrationEnded("broken"))
    assert (state.phase, commands) == (P.RETURNING, (do.LookAtGuest(),))
    for unknown in (Guest.UNKNOWN, Guest.PAUSED, Guest.UNKNOWN):
        state, commands = after(ev.LibvirtSaid(unknown), start=state)
        assert state.phase is P.RETURNING
        assert commands[-1] == do.LookAtGuest(again=True)
        assert (do.Resume() in commands) is (unknown is Guest.PAUSED)
    assert after(ev.LibvirtSaid(Guest.RUNNING), start=state)[1] == (do.Stayed(running=True),)


def test_a_guest_that_is_proven_gone_ends_it_too() -> None:
    """Its owner has powered it off."""
    assert after(ev.MigrationEnded("x"), ev.LibvirtSaid(Guest.NOT_THERE))[1] == (do.Stayed(running=False),)


def test_an_operators_pause_is_kept() -> None:
    """And forgotten when the guest runs again."""
    assert after(ev.GuestSuspended(), ev.MigrationEnded("x"), ev.LibvirtSaid(Guest.PAUSED))[1] == (
        do.Stayed(running=False),
    )
    state = after(ev.GuestSuspended())[0]
    assert state == replace(HERE, was_running=False)
    assert after(ev.GuestResumed(), start=state)[0] == HERE


# A new process


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.OPEN, Phase.TRANSFERRING, Phase.RETURNING])
def test_a_restart_before_finish_lets_the_guest_run(phase: Phase) -> None:
    """Nobody else can run it."""
    state, commands = after(ev.Restarted(phase))
    assert (state.phase, commands) == (P.RETURNING, (do.Thaw(), do.AbortJob(), do.LookAtGuest()))


@pytest.mark.parametrize("phase", [Phase.POST_COPY, Phase.FINISH_PASSED])
@pytest.mark.parametrize("frozen", [FENCED, ev.Frozen(fenced=False), ev.FreezeFailed("?")])
def test_a_restart_after_it_fences_then_asks(phase: Phase, frozen: ev.Event) -> None:
    """Whatever this host did meanwhile; and nothing runs by itself."""
    state, commands = after(ev.Restarted(phase))
    assert (state.phase, commands) == (P.FREEZING, (do.Freeze(),))
    state, commands = after(frozen, start=state)
    assert (state.phase, commands) == (P.UNDECIDED, (do.TellDoubt(state.reason), do.AskLedger()))
    assert (state.doubted, state.migration_over) == (True, True)


def test_after_a_restart_this_process_does_what_libvirts_call_did() -> None:
    """The call ended with the process that made it; nobody else looks at the guest, or clears it."""
    state = after(ev.Restarted(Phase.FINISH_PASSED), FENCED)[0]
    back = (ev.Aborted(), ev.Stored())
    assert after(*back, start=state)[1] == (
        do.Thaw(),
        do.Answer(runs_there=False, reason=state.reason),
        do.LookAtGuest(),
    )
    left = (said(committed=True, arrived=True), ev.FrozenKilled())
    assert after(*left, start=state)[1] == (do.Answer(runs_there=True), do.Destroy())


# Post-copy


def test_post_copy_is_declared_then_said_and_asked_for() -> None:
    """Then granted and started."""
    state, commands = after(ev.PostCopyWanted())
    assert (state.phase, commands) == (P.DECLARING_POST_COPY, (do.Store(Phase.POST_COPY),))
    state, commands = after(ev.Stored(), start=state)
    assert (state.phase, commands) == (P.POST_COPY_WANTED, (do.SayPaused(), do.AskForPostCopy()))
    assert after(ev.PostCopyUnanswered(), start=state) == (state, (do.AskForPostCopy(again=True),))
    assert after(ev.PostCopyDenied(), start=state) == (state, ())
    state, commands = after(ev.PostCopyGranted(), start=state)
    assert (state.phase, commands) == (P.STARTING_POST_COPY, (do.StartPostCopy(),))
    state, commands = after(ev.PostCopyStarted(), start=state)
    assert (state, commands) == (IN_POST_COPY, ())


def test_a_full_disk_puts_post_copy_off() -> None:
    """Nothing was said."""
    state, commands = after(ev.PostCopyWanted(), ev.StoreFailed("full"))
    assert (state.phase, state.post_copy_wanted, commands) == (P.MOVING, False, (do.WantPostCopyAgain(),))


def test_post_copy_has_no_fence() -> None:
    """Its process sends pages until the end, and libvirtd ends it."""
    state, commands = after(ev.FinishWanted(), ev.Stored(), start=IN_POST_COPY)
    assert (state.phase, commands) == (P.UNDECIDED, (do.PassFinish(),))
    state, commands = after(said(committed=True), ev.FinishAnswered(None), start=state)
    assert (state.phase, commands) == (P.LEAVING, (do.Answer(runs_there=True),))


def test_a_full_disk_does_not_stop_a_finish_after_post_copy_was_wanted() -> None:
    """The journal says enough."""
    assert after(ev.FinishWanted(), ev.StoreFailed("full"), start=IN_POST_COPY)[1] == (do.PassFinish(),)
    wanted = after(ev.PostCopyWanted(), ev.Stored())[0]
    assert after(ev.FinishWanted(), ev.StoreFailed("full"), start=wanted)[1] == (do.Freeze(),)
    assert after(ev.FinishWanted(), ev.Stored(), ev.FreezeFailed("?"), start=wanted)[0].phase is P.UNDECIDED


@pytest.mark.parametrize("result", [ev.PostCopyStarted(), ev.PostCopyFailed()])
def test_a_finish_waits_until_it_is_known_whether_to_fence(result: ev.Event) -> None:
    """QEMU's own switchover was faster than the start of post-copy, or was not."""
    starting = after(ev.PostCopyWanted(), ev.Stored(), ev.PostCopyGranted())[0]
    state, commands = after(ev.FinishWanted(), result, start=starting)
    assert (state.phase, commands) == (P.DECLARING, (do.Store(Phase.FINISH_PASSED),))
    fences = after(ev.Stored(), start=state)[1] == (do.Freeze(),)
    assert fences is isinstance(result, ev.PostCopyFailed)


def test_a_refused_start_is_tried_again() -> None:
    """The broker has committed: there is no way back by itself."""
    starting = after(ev.PostCopyWanted(), ev.Stored(), ev.PostCopyGranted())[0]
    state, commands = after(ev.PostCopyFailed(), start=starting)
    assert (state.phase, commands) == (P.POST_COPY_WANTED, (do.AskForPostCopy(again=True),))


def test_a_migration_that_fails_after_post_copy_was_wanted_is_fenced() -> None:
    """The guest may run here while the ledger has given it away, also where libvirt was told to start post-copy: it was
    told in vain, or its Finish cannot go out any more."""
    wanted = after(ev.PostCopyWanted(), ev.Stored())[0]
    state, commands = after(ev.MigrationEnded("x"), start=wanted)
    assert (state.phase, state.migration_over, commands) == (P.FREEZING, True, (do.Freeze(),))
    state, commands = after(ev.MigrationEnded("x"), start=IN_POST_COPY)
    assert (state.phase, state.post_copy, commands) == (P.FREEZING, False, (do.Freeze(),))
    state, commands = after(FENCED, start=state)
    assert (state.phase, commands) == (P.UNDECIDED, (do.TellDoubt("x"), do.AskLedger()))
    assert (state.migration_over, state.doubted) == (True, True)


def test_a_finish_that_waited_for_post_copy_is_dropped_with_its_migration() -> None:
    """libvirtd has hung up: the guest is fenced, and nothing is passed on."""
    starting = after(ev.PostCopyWanted(), ev.Stored(), ev.PostCopyGranted())[0]
    state, commands = after(ev.FinishWanted(), ev.MigrationEnded("x"), start=starting)
    assert (state.phase, state.finish_waits, commands) == (P.FREEZING, False, (do.Freeze(),))
    assert after(FENCED, start=state)[1] == (do.TellDoubt("x"), do.AskLedger())


def test_the_reply_is_remembered_while_nothing_can_be_decided() -> None:
    """An answer may overtake what is being carried out."""
    state, _ = after(ev.FinishWanted(), ev.FinishAnswered(None))
    assert state.reply is Reply.RUNS


WHOLE, GONE = (do.SayCopy(let_go=False),), (do.SayCopy(let_go=True),)


def test_a_copy_that_stands_is_promised_to_the_broker() -> None:
    """From then on the recipient's word that the guest runs there is not enough; the broker's is."""
    state, commands = after(ev.CopyAsked(), start=IN_FINISH)
    assert (state.phase, commands) == (P.UNDECIDED, WHOLE)
    held = after(said(committed=True), ev.FinishAnswered(None), start=state)[0]
    assert held.phase is P.UNDECIDED
    assert after(said(committed=True, arrived=True), start=held)[0].phase is P.KILLING
    assert after(said(committed=False, epoch=3), ev.Aborted(), start=held)[0].phase is P.GIVING_BACK


def test_a_promise_takes_no_other_word_from_the_recipient() -> None:
    """It could not run the guest, and the broker would not commit: the guest runs on."""
    state = after(ev.CopyAsked(), ev.FinishAnswered("no"), start=IN_FINISH)[0]
    assert after(said(committed=False), start=state)[0].phase is P.GIVING_BACK


def test_a_guest_that_was_let_go_is_said_to_be() -> None:
    """While its copy is killed, cleared, and afterwards."""
    killing = after(said(committed=True), ev.FinishAnswered(None), start=IN_FINISH)[0]
    leaving = after(ev.FrozenKilled(), start=killing)[0]
    left = after(ev.MigrationEnded(None), start=leaving)[0]
    for state in (killing, leaving, left):
        assert after(ev.CopyAsked(), start=state) == (state, GONE)


@pytest.mark.parametrize(
    "undecided",
    [
        after(ev.MigrationEnded("broken"), FENCED, start=IN_POST_COPY)[0],
        after(ev.FinishWanted(), ev.Stored(), start=IN_POST_COPY)[0],
        after(ev.Restarted(Phase.POST_COPY), FENCED)[0],
        after(ev.Restarted(Phase.FINISH_PASSED), FENCED)[0],
    ],
)
def test_where_the_guest_never_ran_elsewhere_its_disks_here_are_the_newest(undecided: Donor) -> None:
    """Also in post-copy, begun or not."""
    assert after(ev.CopyAsked(), start=undecided)[1] == WHOLE


def test_what_post_copy_left_behind_is_ended_when_the_vm_is_given_back() -> None:
    """QEMU does not let it run again; the VM can be started from its disks."""
    undecided = after(ev.FinishWanted(), ev.Stored(), start=IN_POST_COPY)[0]
    state = after(ev.Aborted(), ev.Stored(), ev.MigrationEnded("no"), start=undecided)[0]
    assert state.phase is P.RETURNING
    assert after(ev.LibvirtSaid(Guest.LEFT_BEHIND), start=state) == (state, (do.Destroy(),))
    assert after(ev.Destroyed(), start=state) == (state, (do.LookAtGuest(),))
    state, commands = after(ev.LibvirtSaid(Guest.NOT_THERE), start=state)
    assert (state.phase, commands) == (P.STAYED, (do.Stayed(running=False),))


def test_nothing_is_said_of_a_copy_before_it_is_fenced() -> None:
    """The broker asks again."""
    for state in (HERE, after(ev.FinishWanted())[0], after(ev.Restarted(Phase.FINISH_PASSED))[0]):
        assert after(ev.CopyAsked(), start=state) == (state, ())


def test_an_older_epoch_is_not_believed() -> None:
    """Also after an answer of the recipient, which makes the ledger be asked again; and by a new process."""
    given_back = said(committed=False, ended=True, epoch=1)
    state = after(said(committed=True), start=IN_FINISH)[0]
    assert after(given_back, start=state) == (state, ())
    state = after(ev.FinishAnswered("no"), said(committed=True), ev.FinishAnswered("no"), start=IN_FINISH)[0]
    assert after(given_back, start=state)[0].phase is P.UNDECIDED
    again = after(ev.Restarted(Phase.FINISH_PASSED), FENCED, start=replace(HERE, heard_epoch=2))[0]
    assert after(given_back, start=again)[0].phase is P.UNDECIDED
    assert after(said(committed=False, ended=True), start=again)[0].phase is P.GIVING_BACK
