"""The donor's question for post-copy, on a stream of its own of the control lane.

Post-copy cannot be undone, so the recipient's agent asks the broker first. The question is the stream's label; the
answer is one payload: `GRANTED`, else the reason.
"""

from __future__ import annotations

import asyncio

from services.node_agent.lanes.core.errors import LaneError, QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from shared.logs import get_logger
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

DRIVER = "driver"
SWITCHOVER = "switchover"
ANSWER_WITHIN_S = 30.0
GRANTED = b"granted"


class PostCopyDenied(QuestionError):
    """The broker has not committed, and says why. No answer at all is not this."""


async def ask_for_switchover(control: LaneSession, *, within_s: float = ANSWER_WITHIN_S) -> None:
    """Return when the broker has committed the switchover.

    Raises `PostCopyDenied`; or `QuestionError`, where it may have been committed or may still be: ask again.
    """
    try:
        stream = control.open_stream(StreamKind.CONTROL, SWITCHOVER)
    except (LaneError, ValueError) as error:
        raise QuestionError(f"switchover was not granted: {error}") from error
    try:
        stream.write_eof()
        async with asyncio.timeout(within_s):
            answer = await stream.read()
    except (LaneError, StreamError) as error:
        raise QuestionError(f"switchover was not granted: {error}") from error
    except TimeoutError:
        stream.reset("no answer in time; it is asked again")
        raise QuestionError(f"switchover was not granted: no answer within {within_s:.0f} s") from None
    if not answer:
        raise QuestionError("switchover was not granted: the recipient ended the question")
    if answer != GRANTED:
        raise PostCopyDenied(f"switchover was not granted: {answer.decode(errors='replace')[:500]}")


async def answer_switchover(stream: LaneStream, refusal: str | None) -> None:
    """Answer the question that `stream` is."""
    try:
        await stream.write(GRANTED if refusal is None else refusal.encode())
        stream.write_eof()
    except (LaneError, StreamError) as error:
        raise QuestionError(f"the answer to a switchover question is lost: {error}") from error
