"""A transfer under way, as commands see it."""

from __future__ import annotations

from typing import Any

from services.node_agent.transfers.active import ActiveTransfer

NOTHING: Any = None


def transfer() -> ActiveTransfer:
    """One that has just begun."""
    return ActiveTransfer(NOTHING, NOTHING, NOTHING)


def test_an_abort_that_comes_too_early_is_carried_out_later() -> None:
    """When there is something to cancel; and at once from then on."""
    active, cancelled = transfer(), []
    active.abort()
    active.cancel_with(lambda: cancelled.append("first"))
    assert (active.aborting, cancelled) == (True, ["first"])
    active.abort()
    assert cancelled == ["first", "first"]


def test_nothing_is_cancelled_without_an_abort() -> None:
    """Only prepared for."""
    active, cancelled = transfer(), []
    active.cancel_with(lambda: cancelled.append("now"))
    assert (active.aborting, cancelled) == (False, [])


def test_questions_are_answered_while_the_transfer_knows() -> None:
    """Not before, and not afterwards."""
    active, asked = transfer(), []
    assert active.copy_asked is None
    with active.answering(lambda: asked.append("copy")):
        assert active.copy_asked is not None
        active.copy_asked()
    assert (active.copy_asked, asked) == (None, ["copy"])
