"""The question to the nodes about one VM that a quote waits for, as a value: who was asked, who has answered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.recipient_agent.cpu_check import NOT_COMPARED
from services.recipient_agent.placement import Candidate
from shared.messages.base import Refusal
from shared.messages.porting import QuoteRequested
from shared.messages.vm import VmDescription

MAX_ASKED = 16
"""Nodes that are asked for one quote: those with the most free memory."""


class VmCheck(BaseModel):
    """What was asked for one port. It is kept after the quote: the reservation is judged by the same answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: QuoteRequested
    asked: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_ASKED)]
    answers: dict[str, tuple[Refusal, ...]] = Field(default_factory=dict)
    is_over: bool = False
    """The quote was made or declined; answers that come now change nothing."""

    @property
    def port_id(self) -> UUID:
        """The port that the quote is for."""
        return self.request.port_id

    @property
    def is_complete(self) -> bool:
        """Whether every node has answered."""
        return set(self.asked) <= set(self.answers)

    def with_answer(self, node: str, refusals: tuple[Refusal, ...]) -> Self:
        """With one node's answer; one that was not asked changes nothing."""
        if node not in self.asked or self.is_over:
            return self
        return self.model_copy(update={"answers": {**self.answers, node: refusals}})

    def ended(self) -> Self:
        """The quote is answered."""
        return self.model_copy(update={"is_over": True})

    def answers_about(self, vm: VmDescription) -> Mapping[str, tuple[Refusal, ...]]:
        """The answers, if they are about this VM's CPU as it is described now."""
        return self.answers if _asked_of(vm) == _asked_of(self.request.vm) else {}


def _asked_of(vm: VmDescription) -> tuple[object, ...]:
    return (vm.architecture, vm.domain_type, vm.machine, vm.cpu)


def nodes_to_ask(found: Iterable[Candidate]) -> tuple[str, ...]:
    """Those against which nothing speaks but that their libvirt has not compared the CPU yet."""
    open_ones = [
        each for each in found if each.refusals and all(refusal.code == NOT_COMPARED for refusal in each.refusals)
    ]
    open_ones.sort(key=lambda each: (-each.room.memory_bytes, each.node))
    return tuple(each.node for each in open_ones[:MAX_ASKED])
