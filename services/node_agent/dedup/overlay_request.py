"""The donor asks the recipient whether the VM's disks can be overlays there. Both ends.

It uses a stream of the control lane labelled OVERLAYS. The question is `OverlaysWanted` as JSON, up to the end of the
stream; the answer is one payload, `MADE` or `FLAT`. After `MADE` the disks there expect their top layers only. Only the
lane's own time limit holds: a donor that gave up while the answer is in flight would not know which disks exist there.
"""

from __future__ import annotations

from pydantic import ValidationError

from services.node_agent.dedup.base_images import OverlaysWanted
from services.node_agent.lanes.core.errors import QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from shared.logs import get_logger
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

OVERLAYS = "overlays"
MADE = b"made"
FLAT = b"flat"
MAX_QUESTION_BYTES = 64 * 1024


async def ask_for_overlays(control: LaneSession, wanted: OverlaysWanted) -> bool:
    """Ask; returns whether the recipient's disks are overlays now. Raises LaneError."""
    try:
        stream = control.open_stream(StreamKind.CONTROL, OVERLAYS)
        await stream.write(wanted.model_dump_json().encode())
        stream.write_eof()
        return await stream.read() == MADE
    except StreamError as error:
        # An agent without this request resets the stream and has changed nothing; one that failed ends the port.
        log.info("overlays refused", reason=str(error))
        return False


async def read_overlays_wanted(stream: LaneStream) -> OverlaysWanted:
    """The question that comes on `stream`. Raises `QuestionError`, LaneError, StreamError."""
    question = b""
    while payload := await stream.read():
        question += payload
        if len(question) > MAX_QUESTION_BYTES:
            raise QuestionError(f"a question about overlays has more than {MAX_QUESTION_BYTES} bytes")
    try:
        return OverlaysWanted.model_validate_json(question)
    except ValidationError as error:
        raise QuestionError(f"a question about overlays cannot be read: {error.error_count()} errors") from error


async def answer_overlays(stream: LaneStream, *, made: bool) -> None:
    """Answer the question that came on `stream`. Raises LaneError, StreamError."""
    await stream.write(MADE if made else FLAT)
    stream.write_eof()
