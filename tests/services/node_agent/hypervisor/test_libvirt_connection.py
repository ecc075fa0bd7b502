"""Questions that a QEMU may never answer: each ends in time, and none stands in another's way."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from uuid import UUID, uuid4

import pytest

pytest.importorskip("libvirt")

from services.node_agent.hypervisor.interface import HypervisorError  # needs the binding
from services.node_agent.hypervisor.libvirt_connection import Questions

VM = UUID(int=7)


async def test_an_answer_is_passed_on() -> None:
    """And so is an error."""
    questions = Questions()
    assert await questions.ask("ask", VM, lambda: 7, within_s=5) == 7

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await questions.ask("ask", VM, fail, within_s=5)


async def test_one_that_hangs_ends_in_time_and_is_asked_no_more() -> None:
    """The VM has one thread at most; another VM is answered meanwhile; when it answers it may be asked again."""
    questions = Questions()
    free = threading.Event()
    asked = []

    def hang() -> bool:
        asked.append(1)
        return free.wait(60)

    with pytest.raises(HypervisorError, match="has not answered within"):
        await questions.ask("ask", VM, hang, within_s=0.05)
    for _ in range(3):
        with pytest.raises(HypervisorError, match="earlier question"):
            await questions.ask("ask", VM, hang, within_s=0.02)
    assert len(asked) == 1
    assert await questions.ask("ask", uuid4(), lambda: 8, within_s=5) == 8
    free.set()
    assert await questions.ask("ask", VM, lambda: 9, within_s=5) == 9


async def test_two_who_ask_about_one_vm_are_answered_one_after_the_other() -> None:
    """The second waits for the first, within its own time."""
    questions = Questions()
    answers = await asyncio.gather(*(questions.ask("ask", VM, partial(abs, n), within_s=5) for n in range(4)))
    assert sorted(answers) == [0, 1, 2, 3]
