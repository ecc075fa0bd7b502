"""The donor's talk with the broker: what is said and asked, and when it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from services.node_agent.transfers.ledger_questions import LedgerQuestions
from shared.messages.porting import GuestPaused, QuerySwitchover
from shared.tasks import Tasks
from tests.support.transfer_pair import VM, FakeBroker


class Talk:
    """Questions to a broker that may be silent."""

    def __init__(self, tasks: Tasks) -> None:
        self.broker = FakeBroker(uuid4())
        self.client = self.broker.client()
        self.open = True
        self.questions = LedgerQuestions(self.client, VM, 2, undecided=lambda: self.open, tasks=tasks)

    def asked(self, kind: type) -> int:
        """How often."""
        return sum(isinstance(message, kind) for message in self.broker.asked)


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    """One that ends with the test."""
    async with Tasks("test") as tasks:
        yield Talk(tasks)


async def until(talk: Talk, kind: type, count: int) -> None:
    """Wait until the broker was told so often."""
    while talk.asked(kind) < count:
        talk.broker.was_asked.clear()
        await talk.client.query() if kind is not QuerySwitchover else await talk.broker.was_asked.wait()


async def test_the_pause_is_said_until_it_is_heard_and_only_then_not_again(talk: Talk) -> None:
    """The broker's push is enough after that."""
    talk.broker.silent = True
    talk.questions.say_paused()
    await until(talk, GuestPaused, 2)
    talk.broker.silent = False
    await until(talk, GuestPaused, 3)
    said = talk.asked(GuestPaused)
    await talk.client.query()
    await talk.client.query()
    assert talk.asked(GuestPaused) == said


async def test_a_question_does_not_wait_for_a_broker_that_does_not_hear_of_the_pause(talk: Talk) -> None:
    """The ledger is asked at once, and again, until it is decided."""
    talk.broker.silent = True
    talk.questions.say_paused()
    talk.questions.ask()
    await until(talk, QuerySwitchover, 2)


async def test_nothing_is_asked_once_it_is_decided(talk: Talk) -> None:
    """And the talk may begin again."""
    talk.questions.ask()
    await until(talk, QuerySwitchover, 1)
    talk.open = False
    task = talk.questions._task
    assert task is not None
    await task
    talk.open = True
    talk.questions.ask()
    await until(talk, QuerySwitchover, 2)
