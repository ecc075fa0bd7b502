"""The donor's question for post-copy: asked and answered over a lane; a lost answer is not a no."""

from __future__ import annotations

import pytest

from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.switchover.post_copy_request import (
    SWITCHOVER,
    PostCopyDenied,
    answer_switchover,
    ask_for_switchover,
)
from tests.support.control_lane import lane


async def test_a_grant_is_heard() -> None:
    """The question is the stream's label."""

    async def grant(stream: LaneStream) -> None:
        assert stream.label == SWITCHOVER
        await answer_switchover(stream, None)

    async with lane(grant) as control:
        await ask_for_switchover(control)


async def test_a_denial_is_told_apart_with_its_reason() -> None:
    """The broker has not committed."""

    async def deny(stream: LaneStream) -> None:
        await answer_switchover(stream, "cancelled: the tenant")

    async with lane(deny) as control:
        with pytest.raises(PostCopyDenied, match="cancelled: the tenant"):
            await ask_for_switchover(control)


@pytest.mark.parametrize("how", ["silent", "reset", "empty"])
async def test_no_answer_is_no_denial(how: str) -> None:
    """The commit may have been made, or may still be."""

    async def lose(stream: LaneStream) -> None:
        if how == "reset":
            stream.reset("the node agent stopped")
        elif how == "empty":
            stream.write_eof()

    async with lane(lose) as control:
        with pytest.raises(QuestionError) as caught:
            await ask_for_switchover(control, within_s=0.2)
        assert control.stats().open_streams == 0
    assert not isinstance(caught.value, PostCopyDenied)
