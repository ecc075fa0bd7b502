"""The donor's node sends the VM's tracked connections, the recipient's inserts them. Both ends.

It uses a stream of the control lane labelled CONNECTIONS. The donor writes rounds: lines of JSON, each a `Batch`, the
last one of a round marked so. The first round has all and comes while memory flows; the others have what has changed,
and come when the guest is paused, beside the switchover, which waits for none. The recipient answers each round with
one payload, an `Answer`.

Nothing of the port depends on it. A recipient of another release resets the stream; one whose kernel takes no
connections says why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.node_agent.lanes.core.errors import LaneError, QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.tracking.table import TrackingError
from services.node_agent.network.tracking.values import (
    MAX_CONNECTIONS,
    Changes,
    ConnectionKey,
    TrackedConnection,
    TrackedFound,
    changes,
)
from shared.logs import get_logger
from shared.page_stream.bodies import StreamKind

log = get_logger(__name__)

CONNECTIONS: Final = "connections"
BATCH: Final = 250
MAX_LINE_BYTES: Final = 256 * 1024
_Count = Annotated[int, Field(ge=0, le=2**31)]


class Batch(BaseModel):
    """A part of a round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connections: tuple[TrackedConnection, ...] = Field(default=(), max_length=BATCH)
    gone: tuple[ConnectionKey, ...] = Field(default=(), max_length=BATCH)
    last: bool = False


class Answer(BaseModel):
    """What became of a round. `problem`: why nothing could be done; "" if it could."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    new: _Count = 0
    there: _Count = 0
    refused: _Count = 0
    problem: str = Field(default="", max_length=500)


async def send_connections(
    control: LaneSession,
    read: Callable[[], Awaitable[TrackedFound]],
    next_round: Callable[[], Awaitable[bool]],
) -> tuple[str, ...]:
    """Send all, then what has changed by each `next_round`, until that says False; return what was not carried, and
    why. Raises nothing of the lane.
    """
    sent: dict[ConnectionKey, TrackedConnection] = {}
    refused = 0
    try:
        stream = control.open_stream(StreamKind.CONTROL, CONNECTIONS)
        while True:
            found = await read()
            changed = changes(sent, found.connections)
            answer = await _round(stream, changed)
            sent = {each.key: each for each in found.connections}
            refused += answer.refused
            log.info("connections sent", sent=len(changed.connections), gone=len(changed.gone), new=answer.new)
            if not await next_round():
                stream.write_eof()
                return tuple(_findings(found, answer.problem, refused))
    except (TrackingError, LaneError, StreamError, ValidationError) as error:
        return (f"connections not carried: {error}",)


def _findings(found: TrackedFound, problem: str, refused: int) -> Iterator[str]:
    if problem:
        yield f"connections not carried: {problem}"
    if found.translated:
        yield f"{found.translated} connections are translated (NAT) at the donor, and are not carried"
    if found.too_many:
        yield f"{found.too_many} connections beyond {MAX_CONNECTIONS} are not carried"
    if refused:
        yield f"the recipient refused {refused} connections"


async def _round(stream: LaneStream, changed: Changes) -> Answer:
    longest = max(len(changed.connections), len(changed.gone), 1)
    for start in range(0, longest, BATCH):
        end = start + BATCH
        batch = Batch(connections=changed.connections[start:end], gone=changed.gone[start:end], last=end >= longest)
        await stream.write(batch.model_dump_json(exclude_defaults=True).encode() + b"\n")
    return Answer.model_validate_json(await stream.read() or b"{}")


async def receive_connections(stream: LaneStream, take: Callable[[Changes], Awaitable[Answer]]) -> None:
    """Take what comes on `stream` until its end. Raises `QuestionError`, LaneError, StreamError."""
    unread = bytearray()
    connections: list[TrackedConnection] = []
    gone: list[ConnectionKey] = []
    while payload := await stream.read():
        unread += payload
        *lines, rest = unread.split(b"\n")
        for line in lines:
            batch = _batch(bytes(line))
            connections += batch.connections
            gone += batch.gone
            if max(len(connections), len(gone)) > MAX_CONNECTIONS:
                raise QuestionError(f"the donor sends more than {MAX_CONNECTIONS} connections")
            if batch.last:
                answer = await take(Changes(tuple(connections), tuple(gone)))
                connections.clear()
                gone.clear()
                await stream.write(answer.model_dump_json().encode())
        unread = rest
        if len(unread) > MAX_LINE_BYTES:
            raise QuestionError("the donor's connections have too long a line")
    stream.write_eof()


def _batch(line: bytes) -> Batch:
    try:
        return Batch.model_validate_json(line)
    except ValidationError as error:
        raise QuestionError(f"the donor's connections cannot be read: {error.error_count()} errors") from error
