"""Duties with a deadline, rights of the tenant, and duties that are only recorded. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from shared.messages.rule_facts import RuleOutcome
from shared.rules.predicates import Found, Given, Predicate, duty, met, unknown
from shared.rules.spans import Span


class TransitionMax(Predicate):
    """The switch is done within this time from the end of the notice; the tenant may itself choose a later window."""

    kind: Literal["transition_max"] = "transition_max"
    at_most: Span

    def limit(self) -> str:
        """In words."""
        return f"at most {self.at_most} from the end of the notice"

    def judge(self, given: Given) -> Iterator[Found]:
        """Until when the VM must have arrived."""
        facts = given.facts
        if facts.ended_at is not None:
            yield met("the port ended without a switch")
            return
        starts_at = _notice_end(given)
        due_at = self.at_most.after(starts_at, given.calendar)
        said = f"the transition ends at {due_at}"
        if facts.window_start is not None and facts.deadline is not None and facts.window_start > due_at:
            due_at = facts.deadline
            said = f"extended by the tenant's own window until {due_at}"
        yield duty(given, due_at, said, facts.switched_at)


def _notice_end(given: Given) -> datetime:
    days = given.donor.notice_days if given.donor is not None else 0
    return given.facts.requested_at + timedelta(days=days)


class Extension(Predicate):
    """The tenant may extend the transition, so often; it does so with a window of its own beyond the usual time."""

    kind: Literal["extension"] = "extension"
    times: Annotated[int, Field(ge=1, le=100, strict=True)]
    beyond: Span

    def limit(self) -> str:
        """In words."""
        return f"{self.times} time{'s' if self.times > 1 else ''}, beyond {self.beyond}"

    def judge(self, given: Given) -> Iterator[Found]:
        """Whether the tenant has used it."""
        start = given.facts.window_start
        if start is not None and start > self.beyond.after(_notice_end(given), given.calendar):
            yield met(f"used: the tenant's window starts at {start}")
        else:
            yield met("not used")


class PortWithin(Predicate):
    """The VM is ported within this time of the request, or of the day on which the tenant wanted it."""

    kind: Literal["port_within"] = "port_within"
    at_most: Span

    def limit(self) -> str:
        """In words."""
        return f"within {self.at_most}"

    def judge(self, given: Given) -> Iterator[Found]:
        """Until when it must have arrived."""
        facts = given.facts
        if facts.ended_at is not None:
            yield met("the port ended without a switch")
            return
        starts_at = max(facts.requested_at, facts.wanted_start or facts.requested_at)
        due_at = self.at_most.after(starts_at, given.calendar)
        yield duty(given, due_at, f"the VM must have arrived by {due_at}", facts.switched_at)


class RetrievalMin(Predicate):
    """The donor keeps the VM's data for this time after the switch, so that the tenant can fetch what it misses."""

    kind: Literal["retrieval_min"] = "retrieval_min"
    at_least: Span

    def limit(self) -> str:
        """In words."""
        return f"at least {self.at_least} after the switch"

    def judge(self, given: Given) -> Iterator[Found]:
        """Until when the data must be kept; the longest of several binds."""
        switched_at, erased_at = given.facts.switched_at, given.facts.erased_at
        if switched_at is None:
            yield unknown("when the VM has left")
            return
        until = self.at_least.after(switched_at, given.calendar)
        said, order = f"the data are kept until {until}", -until.timestamp()
        if erased_at is not None:
            outcome = RuleOutcome.MET if erased_at >= until else RuleOutcome.OVERDUE
            yield Found(outcome, f"{said}; erased at {erased_at}", order=order)
        elif given.now >= until:
            yield met(said, order=order)
        else:
            yield Found(RuleOutcome.DUE, said, until, order=order)


class EraseAfter(Predicate):
    """The donor erases the VM's data when the time to retrieve them is over."""

    kind: Literal["erase_after"] = "erase_after"
    retrieval: Span
    within: Span

    def limit(self) -> str:
        """In words."""
        return f"{self.within} after the {self.retrieval} in which they can be retrieved"

    def judge(self, given: Given) -> Iterator[Found]:
        """Until when the data must be erased."""
        switched_at = given.facts.switched_at
        if switched_at is None:
            yield unknown("when the VM has left")
            return
        due_at = self.within.after(self.retrieval.after(switched_at, given.calendar), given.calendar)
        yield duty(given, due_at, f"the data must be erased by {due_at}", given.facts.erased_at)


class Withdrawal(Predicate):
    """The tenant may take its request back for this time. The broker grants it until the switchover in any case."""

    kind: Literal["withdrawal"] = "withdrawal"
    within: Span

    def limit(self) -> str:
        """In words."""
        return f"within {self.within} of the request"

    def judge(self, given: Given) -> Iterator[Found]:
        """Until when, and whether it was used."""
        until = self.within.after(given.facts.requested_at, given.calendar)
        at = given.facts.withdrawn_at
        if at is None:
            yield met(f"may be used until {until}, and until the switchover")
        elif at <= until:
            yield met(f"used at {at}; the right lasted until {until}")
        else:
            yield met(f"cancelled at {at}, after the right ended at {until}: granted all the same")


class Duty(Predicate):
    """A duty that no message of a port can show. The broker records that it binds, and does nothing about it."""

    kind: Literal["duty"] = "duty"

    def judge(self, given: Given) -> Iterator[Found]:  # noqa: ARG002  # as of the base
        """Only recorded."""
        yield Found(RuleOutcome.RECORDED, "recorded; the broker cannot see whether it is done")
