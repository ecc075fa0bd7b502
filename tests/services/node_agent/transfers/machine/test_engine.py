"""The engine, and what holds for every sequence of events on either side."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.node_agent.state.journal import Phase
from services.node_agent.switchover.verdict import Reply
from services.node_agent.transfers.machine import Donor, DonorPhase, Guest, Recipient, RecipientPhase, engine, step
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.state import Decision, MachineBug
from services.node_agent.transfers.machine.table import on
from shared.messages.porting import SwitchoverState

PORT = UUID(int=1)


def word(*, committed: bool, epoch: int = 2, arrived: bool = False, ended: bool = False) -> ev.LedgerSaid:
    """The ledger's word."""
    owner = "beta" if committed else "alpha"
    return ev.LedgerSaid(
        SwitchoverState(
            port_id=PORT, committed=committed, owner=owner, epoch=epoch, arrived=arrived, ended=ended, ready=not ended
        )
    )


WORDS = [
    word(committed=c, arrived=c and a, ended=e) for c in (True, False) for a in (True, False) for e in (True, False)
]
COMMON: list[ev.Event] = [
    *(ev.Restarted(phase) for phase in Phase),
    ev.Restarted(Phase.FINISH_PASSED, ran=True),
    ev.Stored(),
    ev.StoreFailed("full"),
    *WORDS,
    *(ev.LibvirtSaid(guest) for guest in Guest),
    ev.LibvirtSaid(Guest.UNKNOWN, ran=True),
    ev.Aborted(),
    ev.FinishAnswered(None),
    ev.FinishAnswered("no"),
]
DONORS: list[ev.Event] = [
    ev.GuestSuspended(),
    ev.GuestResumed(),
    ev.FinishWanted(),
    ev.Frozen(fenced=True),
    ev.Frozen(fenced=False),
    ev.FreezeFailed("?"),
    ev.FrozenKilled(),
    ev.Destroyed(),
    ev.LaneLost("gone"),
    ev.MigrationEnded(None),
    ev.MigrationEnded("broken"),
    ev.PostCopyWanted(),
    ev.PostCopyGranted(),
    ev.PostCopyUnanswered(),
    ev.PostCopyDenied(),
    ev.PostCopyStarted(),
    ev.PostCopyFailed(),
]
RECIPIENTS: list[ev.Event] = [
    ev.SwitchoverWanted(),
    ev.PostCopyAsked(),
    ev.Granted(),
    ev.Denied("no", "no"),
    ev.Trouble("lane_failed", "gone"),
    ev.Stopping(),
    ev.Removed(),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(COMMON + DONORS), max_size=40))
def test_a_donors_guest_never_runs_by_its_own_word(events: list[ev.Event]) -> None:
    """Once Finish was passed, or post-copy asked for, it is thawed or resumed only when the ledger or an abort says."""
    state, out, allowed = Donor("alpha"), False, False
    for event in events:
        before, decision = state, step(state, event)
        state = decision.state
        allowed = allowed or state.aborted or bool(state.ledger and not state.ledger.committed)
        for command in decision.commands:
            out = out or isinstance(command, do.PassFinish | do.AskForPostCopy)
            if isinstance(command, do.Thaw | do.Resume) and out:
                assert allowed, (before, event, decision)
            if isinstance(command, do.KillFrozen) or command == do.Answer(runs_there=True):
                assert state.ledger is not None, (before, event, decision)
                assert state.ledger.committed
                assert state.ledger.arrived or state.ledger.ended or state.reply is Reply.RUNS


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(COMMON + RECIPIENTS), max_size=40))
def test_a_recipients_guest_is_not_removed_once_it_may_have_run(events: list[ev.Event]) -> None:
    """Only the broker's abort removes it; a final no needs a proof."""
    state, passed, aborted, seen_gone = Recipient("beta"), False, False, False
    for event in events:
        before, decision = state, step(state, event)
        state = decision.state
        aborted = aborted or isinstance(event, ev.Aborted)
        seen_gone = seen_gone or event in (ev.LibvirtSaid(Guest.NOT_THERE), ev.Restarted(Phase.KEPT))
        for command in decision.commands:
            passed = passed or isinstance(command, do.PassFinish) or before.phase is RecipientPhase.STARTING
            if isinstance(command, do.Remove) and passed:
                assert aborted, (before, event, decision)
            if isinstance(command, do.TellNotHere):
                assert seen_gone or not passed, (before, event, decision)
            if isinstance(command, do.PassFinish):
                assert isinstance(event, ev.Stored)
                assert before.phase is RecipientPhase.ACCEPTING


def test_an_event_that_a_phase_does_not_understand_changes_nothing() -> None:
    """It raises nothing either."""
    donor, recipient = Donor("alpha"), Recipient("beta")
    assert step(donor, ev.Granted()) == Decision(donor)
    assert step(recipient, ev.FrozenKilled()) == Decision(recipient)


def test_what_counts_later_is_remembered_anywhere() -> None:
    """A word of the ledger that comes while a command is carried out."""
    state = Donor("alpha", phase=DonorPhase.FREEZING)
    said = word(committed=True)
    assert step(state, said) == Decision(replace(state, ledger=said.state, heard_epoch=2))


def test_a_handler_that_leaves_the_table_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is not taken."""

    def astray(state: Donor, _: ev.Stored) -> Decision[Donor]:
        return Decision(state.with_(phase=DonorPhase.LEFT))

    monkeypatch.setattr(engine, "DONOR", {DonorPhase.MOVING: (on(ev.Stored, astray),)})
    with pytest.raises(MachineBug, match="moving does not lead to left by Stored"):
        step(Donor("alpha"), ev.Stored())
