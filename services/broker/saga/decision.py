"""What a step of the saga gets and returns: the moment, the timing and the decision. Pure values.

`Moment` is also where a handler finds what an earlier phase has stored, such as ``at.agreement``. It is there, or the
table is wrong and `SagaBug` is raised: handlers do not check it themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from services.broker.saga.effects import Effect
from services.broker.saga.state import Failure, SagaState
from shared.bus import LaneEnds
from shared.errors import VmportError
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.service_change import PortPhase, Quote
from shared.messages.vm import IdentityBundle
from shared.parties import Name, Party

T = TypeVar("T")


class SagaBug(VmportError):
    """A handler did something that the table does not allow; the step is not taken."""

    code = "saga_bug"


class Verdict(StrEnum):
    """What was done with an event."""

    HANDLED = "handled"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of a step."""

    state: SagaState
    effects: tuple[Effect, ...] = ()
    note: str = ""
    """Why, in a few words, for the port's record and the log."""
    verdict: Verdict = Verdict.HANDLED
    rearm: bool = False
    """Start the phase's deadline again, although the phase stays the same."""
    quiet: bool = False
    """Somebody repeats what is known, as nodes do every second or two: not worth a line in the port's record."""

    def after(self, *effects: Effect, note: str) -> Decision:
        """The same decision with these effects before its own, and another note."""
        return replace(self, effects=(*effects, *self.effects), note=note)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each phase may take, and how often its questions are repeated; from the settings."""

    approval: timedelta = timedelta(seconds=30)
    quoting: timedelta = timedelta(seconds=15)
    reserving: timedelta = timedelta(seconds=30)
    preparing: timedelta = timedelta(seconds=300)
    starting: timedelta = timedelta(seconds=300)
    transfer: timedelta = timedelta(hours=4)
    silence: timedelta = timedelta(seconds=420)
    switching: timedelta = timedelta(seconds=60)
    resolving: timedelta = timedelta(minutes=10)
    finishing: timedelta = timedelta(minutes=2)
    aborting: timedelta = timedelta(minutes=2)
    seed_ahead: timedelta = timedelta(hours=6)
    clock_difference: timedelta = timedelta(seconds=60)
    first_retry: timedelta = timedelta(seconds=2)
    longest_retry: timedelta = timedelta(seconds=60)

    def retry(self, retries: int) -> timedelta:
        """How long to wait before the next question, after this many: doubled each time, up to ``longest_retry``."""
        return min(self.longest_retry, self.first_retry * (1 << min(retries, 20)))


@dataclass(frozen=True, slots=True)
class Moment:
    """The port as it is now; every handler's first argument. Its methods make decisions."""

    state: SagaState
    now: datetime
    timing: Timing
    last_heard: datetime | None = None
    """When the donor's node last reported progress, if it did; set for deadlines only."""

    def with_(self, **changes: Any) -> Moment:
        """The same moment with some fields of the state changed."""
        return replace(self, state=self.state.with_(**changes))

    # Decisions

    def stay(
        self, *effects: Effect, note: str = "", rearm: bool = False, quiet: bool = False, **changes: Any
    ) -> Decision:
        """Remain in the phase."""
        state = self.state.with_(**changes) if changes else self.state
        return Decision(state, effects, note, rearm=rearm, quiet=quiet)

    def go(self, phase: PortPhase, *effects: Effect, note: str = "", rearm: bool = False, **changes: Any) -> Decision:
        """Enter a phase; `step` sets its deadline. A phase that is entered again needs ``rearm``."""
        entered: dict[str, Any] = {"phase": phase, "phase_since": self.now, "wake_at": None, "retries": 0}
        return Decision(self.state.with_(**(entered | changes)), effects, note, rearm=rearm)

    def ignore(self, note: str) -> Decision:
        """Do nothing about the event; the record says why."""
        return Decision(self.state, (), note, Verdict.IGNORED)

    # What earlier phases have stored

    @property
    def identity(self) -> IdentityBundle:
        """The donor's description of the VM; from QUOTING on."""
        return self._stored("identity", self.state.identity)

    @property
    def chosen(self) -> Quote:
        """The offer that was chosen; from RESERVING on."""
        return self._stored("chosen offer", self.state.chosen)

    @property
    def agreement(self) -> ServiceChangeAgreement:
        """What all parties agreed on; from SCHEDULED on."""
        return self._stored("agreement", self.state.agreement)

    @property
    def recipient(self) -> Name:
        """The provider whose offer was chosen; from RESERVING on."""
        return self.chosen.provider

    @property
    def recipient_party(self) -> Party:
        """The recipient's agent; from RESERVING on."""
        return self._stored("recipient", self.state.recipient_party)

    @property
    def donor_node(self) -> Party:
        """The node that the VM leaves; from SCHEDULED on."""
        return self._stored("donor node", self.state.donor_node)

    @property
    def recipient_node(self) -> Party:
        """The node that the VM joins; from SCHEDULED on."""
        return self._stored("recipient node", self.state.recipient_node)

    @property
    def lane_ends(self) -> LaneEnds:
        """The two nodes between which the lanes run; from SCHEDULED on."""
        return self._stored("lane ends", self.state.lane_ends)

    @property
    def moving_since(self) -> datetime:
        """When the window opened for this port; from PREPARING on."""
        return self._stored("moving_since", self.state.moving_since)

    @property
    def arrived_at(self) -> datetime:
        """When the broker heard that the VM runs at the recipient; from FINISHING on."""
        return self._stored("arrived_at", self.state.arrived_at)

    @property
    def failure(self) -> Failure:
        """Why the port is being aborted; in ABORTING."""
        return self._stored("failure", self.state.failure)

    def _stored(self, what: str, value: T | None) -> T:
        if value is None:
            raise SagaBug(f"a port in {self.state.phase} has no {what}")
        return value
