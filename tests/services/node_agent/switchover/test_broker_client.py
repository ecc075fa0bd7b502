"""Asking the broker: again and again until it answers; silence is neither yes nor no."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from services.node_agent.switchover.broker_client import Answer, BrokerClient
from services.node_agent.switchover.readiness import BrokerReadiness
from shared.bus import BusDown
from shared.messages.base import PortMessage
from shared.messages.porting import (
    GuestPaused,
    QuerySwitchover,
    RequestSwitchover,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
)

PORT, VM = uuid4(), uuid4()
DENIED = SwitchoverDenied(port_id=PORT, code="cancelled", detail="x")


def state(*, committed: bool = False, owner: str = "alpha", ended: bool = False) -> SwitchoverState:
    """The broker's word."""
    return SwitchoverState(port_id=PORT, committed=committed, owner=owner, epoch=2, ended=ended)


class Script:
    """A broker that answers each question with the next line: an answer, None for silence, or an error."""

    def __init__(self, *lines: Answer | BusDown | None) -> None:
        self.lines = list(lines)
        self.heard: list[PortMessage] = []
        self.talk = BrokerClient(PORT, self.say, repeat_s=0.01)

    async def say(self, message: PortMessage) -> None:
        """Hear a question."""
        self.heard.append(message)
        line = self.lines.pop(0)
        if isinstance(line, BusDown):
            raise line
        if line is not None:
            self.talk.deliver(line)

    async def request(self) -> SwitchoverDenied | None:
        """Ask for the VM as beta."""
        return await self.talk.request_switchover(VM, 2, this_provider="beta")


async def test_a_grant_ends_the_asking() -> None:
    """One question, one answer."""
    script = Script(SwitchoverGranted(port_id=PORT, epoch=2))
    assert await script.request() is None
    assert script.heard == [RequestSwitchover(port_id=PORT, vm_uuid=VM, epoch=2)]


async def test_silence_and_a_bus_that_is_down_are_asked_again() -> None:
    """The same question until there is an answer."""
    script = Script(None, BusDown(), None, DENIED)
    assert await script.request() == DENIED
    assert len(script.heard) == 4


async def test_a_grant_of_another_epoch_is_no_grant() -> None:
    """An old answer must not start a guest."""
    script = Script(SwitchoverGranted(port_id=PORT, epoch=1), SwitchoverGranted(port_id=PORT, epoch=2))
    assert await script.request() is None
    assert len(script.heard) == 2


async def test_the_owners_name_is_an_answer_too() -> None:
    """After the end of a port the broker says who owns the VM instead."""
    assert await Script(state(committed=True, owner="beta")).request() is None
    denied = await Script(state(ended=True)).request()
    assert denied is not None
    assert denied.code == "port_ended"


async def test_a_query_is_asked_once() -> None:
    """Silence is None."""
    script = Script(None, state())
    assert await script.talk.query() is None
    assert await script.talk.query() == state()
    assert script.heard == [QuerySwitchover(port_id=PORT)] * 2


async def test_old_answers_are_forgotten() -> None:
    """Only what comes after the question answers it; the pile is bounded."""
    script = Script(state(committed=True, owner="beta"))
    for _ in range(50):
        script.talk.deliver(state())
    answer = await script.talk.query()
    assert answer is not None
    assert answer.committed
    assert isinstance(script.heard[0].port_id, UUID)


async def test_an_answer_about_readiness_answers_no_later_question() -> None:
    """It may be older than the commit: a donor that took it for the ledger's word would let its copy run."""
    question = uuid4()

    async def publish(_: PortMessage, __: UUID) -> None:
        return

    script = Script(None)
    script.talk.readiness = BrokerReadiness(PORT, publish, clock=lambda: 0.0)
    script.talk.readiness._asked[question] = 0.0
    waiting = asyncio.ensure_future(script.talk.query())
    await asyncio.sleep(0)
    script.talk.deliver(state(), question=question)
    assert await waiting is None
    assert script.talk.readiness.is_fresh


async def test_a_commit_is_an_answer_whoever_asked() -> None:
    """It is never taken back without a word."""
    question = uuid4()

    async def publish(_: PortMessage, __: UUID) -> None:
        return

    script = Script(None)
    script.talk.readiness = BrokerReadiness(PORT, publish, clock=lambda: 0.0)
    script.talk.readiness._asked[question] = 0.0
    waiting = asyncio.ensure_future(script.talk.query())
    await asyncio.sleep(0)
    script.talk.deliver(state(committed=True, owner="beta"), question=question)
    answer = await waiting
    assert answer is not None
    assert answer.committed


async def test_the_pause_is_said_once_and_tells_whether_it_was_heard() -> None:
    """The broker answers with what it knows of the owner."""
    script = Script(None, BusDown(), state())
    assert [await script.talk.say_paused(VM, 2) for _ in range(3)] == [False, False, True]
    assert script.heard == [GuestPaused(port_id=PORT, vm_uuid=VM, epoch=2)] * 3


async def test_what_the_broker_says_unasked_is_heard_at_once() -> None:
    """Also while nobody waits; a denial is no word about the owner."""
    script, heard = Script(), list[SwitchoverState]()
    stop = script.talk.listen(heard.append)
    script.talk.deliver(state(committed=True, owner="beta"))
    script.talk.deliver(DENIED)
    assert heard == [state(committed=True, owner="beta")]
    stop()
    script.talk.deliver(state())
    assert len(heard) == 1
