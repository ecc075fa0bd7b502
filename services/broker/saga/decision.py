"""What one step of the saga is given and what it answers: the moment, its limits, and the decision. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from services.broker.saga.effects import Effect
from services.broker.saga.state import SagaState
from shared.messages.service_change import PortPhase


class Verdict(StrEnum):
    """What became of an event."""

    HANDLED = "handled"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a step comes to. ``note`` explains it in the port's record; ``rearm`` starts the phase's deadline again."""

    state: SagaState
    effects: tuple[Effect, ...] = ()
    note: str = ""
    verdict: Verdict = Verdict.HANDLED
    rearm: bool = False


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each phase may take and how its questions are repeated; from the settings."""

    approval: timedelta = timedelta(seconds=30)
    quoting: timedelta = timedelta(seconds=15)
    reserving: timedelta = timedelta(seconds=30)
    preparing: timedelta = timedelta(seconds=120)
    starting: timedelta = timedelta(seconds=60)
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
        """The pause before the next question, after so many."""
        return min(self.longest_retry, self.first_retry * (1 << min(retries, 20)))


@dataclass(frozen=True, slots=True)
class Moment:
    """A step's circumstances; handlers take it first. Its methods make decisions."""

    state: SagaState
    now: datetime
    timing: Timing
    last_heard: datetime | None = None
    """When the donor's node last reported progress, if it did; set for deadlines only."""

    def stay(self, *effects: Effect, note: str = "", rearm: bool = False, **changes: Any) -> Decision:
        """Remain in the phase."""
        return Decision(self.state.but(**changes), effects, note, rearm=rearm)

    def go(self, phase: PortPhase, *effects: Effect, note: str = "", **changes: Any) -> Decision:
        """Enter a phase; `step` sets its deadline."""
        fresh: dict[str, Any] = {"phase": phase, "phase_since": self.now, "wake_at": None, "retries": 0}
        return Decision(self.state.but(**(fresh | changes)), effects, note)

    def ignore(self, note: str) -> Decision:
        """Nothing comes of the event, and the record says why."""
        return Decision(self.state, (), note, Verdict.IGNORED)
