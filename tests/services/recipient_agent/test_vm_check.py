"""The question to the nodes about one VM."""

from __future__ import annotations

from datetime import timedelta

from services.recipient_agent.capacity import Room
from services.recipient_agent.placement import Candidate
from services.recipient_agent.testing import NOW, VERSIONS, make_vm
from services.recipient_agent.vm_check import MAX_ASKED, VmCheck, nodes_to_ask
from shared.messages.base import Refusal
from shared.messages.porting import QuoteRequested
from shared.messages.service_change import PortLimits
from shared.messages.vm import CpuFacts, CpuMode
from tests.support.recipient_world import PORT

NOT_YET = Refusal(code="cpu_not_compared", rule="r", evidence="e")
OTHER = Refusal(code="memory_short", rule="r", evidence="e")
VM = make_vm(cpu=CpuFacts(mode=CpuMode.CUSTOM, model="EPYC"))
CHECK = VmCheck(
    request=QuoteRequested(
        port_id=PORT,
        tenant="acme",
        vm=VM,
        versions=VERSIONS,
        limits=PortLimits(),
        answer_by=NOW + timedelta(seconds=15),
    ),
    asked=("a", "b"),
)


def candidate(name: str, *refusals: Refusal, memory_bytes: int = 1) -> Candidate:
    """A node."""
    return Candidate(name, Room(1, memory_bytes, 1), refusals)


def test_those_are_asked_whose_answer_decides() -> None:
    """The roomiest first, and not all of a large provider's."""
    found = [candidate("a", NOT_YET, OTHER), candidate("b", OTHER), candidate("c", NOT_YET), candidate("e")]
    roomy = candidate("d", NOT_YET, memory_bytes=2)

    assert nodes_to_ask([*found, roomy]) == ("d", "c")
    assert len(nodes_to_ask([candidate(f"n{number}", NOT_YET) for number in range(50)])) == MAX_ASKED


def test_answers_of_those_that_were_asked_count_once_over() -> None:
    """A node that was not asked says nothing here; after the quote nothing changes."""
    half = CHECK.with_answer("a", (OTHER,)).with_answer("stranger", ())
    whole = half.with_answer("b", ())

    assert not half.is_complete
    assert whole.is_complete
    assert whole.answers == {"a": (OTHER,), "b": ()}
    assert whole.ended().with_answer("a", ()).answers["a"] == (OTHER,)


def test_answers_are_about_one_cpu() -> None:
    """The reservation's VM must be the one that was asked about, on the same machine."""
    answered = CHECK.with_answer("a", ())

    assert answered.answers_about(VM.model_copy(update={"memory_bytes": 5})) == {"a": ()}
    for change in ({"cpu": CpuFacts()}, {"machine": "pc-q35-9.2"}, {"domain_type": "kvm"}):
        assert answered.answers_about(VM.model_copy(update=change)) == {}
    assert VmCheck.model_validate_json(answered.model_dump_json()) == answered
