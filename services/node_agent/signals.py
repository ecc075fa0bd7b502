"""What two node agents say to each other beside the hypervisors' bytes: questions, on a stream of its own each time.

`switchover`: the donor's agent wants post-copy, which cannot be undone, so the recipient's agent asks the broker first.
The question is the stream's label; the answer is one payload, `GRANTED`, else the reason.

`overlays`: the VM's disks are overlays; may they be so at the recipient, on base images of its own? The question is
`OverlaysWanted` as JSON, up to the end of the stream; the answer one payload, `MADE` or `FLAT`. After `MADE` the disks
there wait for their top layers only. There is no time limit but the lane's own: a donor that gave up on an answer that
is under way would not know what lies at the recipient.
"""

from __future__ import annotations

import asyncio

import structlog
from pydantic import ValidationError

from services.node_agent.base_images import OverlaysWanted
from services.node_agent.lanes.errors import LaneError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from shared.errors import VmportError
from shared.page_stream.bodies import StreamKind

log = structlog.stdlib.get_logger(__name__)

DRIVER = "driver"
SWITCHOVER = "switchover"
OVERLAYS = "overlays"
ANSWER_WITHIN_S = 30.0
GRANTED = b"granted"
MADE = b"made"
FLAT = b"flat"
MAX_QUESTION_BYTES = 64 * 1024


class SignalError(VmportError):
    """The other node agent said no, or nothing."""

    code = "signal"


async def ask_for_switchover(control: LaneSession, *, within_s: float = ANSWER_WITHIN_S) -> None:
    """Return when the broker has committed the switchover. Raises `SignalError`; then it may still be committed."""
    try:
        stream = control.open_stream(StreamKind.CONTROL, SWITCHOVER)
        stream.write_eof()
        async with asyncio.timeout(within_s):
            answer = await stream.read()
    except (LaneError, StreamError) as error:
        raise SignalError(f"switchover was not granted: {error}") from error
    except TimeoutError:
        raise SignalError(f"switchover was not granted: no answer within {within_s:.0f} s") from None
    if answer != GRANTED:
        raise SignalError(f"switchover was not granted: {answer.decode(errors='replace')[:500]}")


async def answer_switchover(stream: LaneStream, refusal: str | None) -> None:
    """Answer the question that `stream` is."""
    try:
        await stream.write(GRANTED if refusal is None else refusal.encode())
        stream.write_eof()
    except (LaneError, StreamError) as error:
        raise SignalError(f"the answer to a switchover question is lost: {error}") from error


async def ask_for_overlays(control: LaneSession, wanted: OverlaysWanted) -> bool:
    """Whether the recipient's disks are overlays now. Raises LaneError."""
    try:
        stream = control.open_stream(StreamKind.CONTROL, OVERLAYS)
        await stream.write(wanted.model_dump_json().encode())
        stream.write_eof()
        return await stream.read() == MADE
    except StreamError as error:
        # An agent that knows no such question has changed nothing; one that failed half way ends the port.
        log.info("the recipient makes no overlays", reason=str(error))
        return False


async def read_overlays_wanted(stream: LaneStream) -> OverlaysWanted:
    """The question that comes on `stream`. Raises `SignalError`, LaneError, StreamError."""
    question = b""
    while payload := await stream.read():
        question += payload
        if len(question) > MAX_QUESTION_BYTES:
            raise SignalError(f"a question about overlays has more than {MAX_QUESTION_BYTES} bytes")
    try:
        return OverlaysWanted.model_validate_json(question)
    except ValidationError as error:
        raise SignalError(f"a question about overlays cannot be read: {error.error_count()} errors") from error


async def answer_overlays(stream: LaneStream, *, made: bool) -> None:
    """Answer the question that came on `stream`. Raises LaneError, StreamError."""
    await stream.write(MADE if made else FLAT)
    stream.write_eof()
