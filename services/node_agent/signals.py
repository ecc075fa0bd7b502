"""What two node agents say to each other beside the hypervisors' bytes: a question, on a stream of its own each time.

`switchover`: the donor's agent wants post-copy, which cannot be undone, so the recipient's agent asks the broker first.
The question is the stream's label; the answer is one payload, `granted` for yes, else the reason.

`overlays`: the donor's agent would send only the top layers of the VM's disks, if the recipient's makes these disks
anew as overlays on its own copies of the base images. The question is one payload, JSON: `disks`, for each such disk
its `BaseImage`; the answer as above, for all of them or none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.node_agent.base_images import BaseImage
from services.node_agent.lanes.errors import LaneError, StreamError, StreamResetError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from shared.errors import VmportError
from shared.messages.vm import DiskTarget
from shared.page_stream.bodies import StreamKind

DRIVER = "driver"
SWITCHOVER = "switchover"
OVERLAYS = "overlays"
ANSWER_WITHIN_S = 30.0
GRANTED = b"granted"
MAX_DISKS: Final = 64
"""That become overlays in one port; their question fits into one payload."""


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


async def answer(stream: LaneStream, refusal: str | None) -> None:
    """Answer the question that `stream` brought. Raises `SignalError`."""
    try:
        await stream.write(GRANTED if refusal is None else refusal.encode())
        stream.write_eof()
    except (LaneError, StreamError) as error:
        raise SignalError(f"the answer about {stream.label} is lost: {error}") from error


class _Wanted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    disks: Annotated[dict[DiskTarget, BaseImage], Field(min_length=1, max_length=MAX_DISKS)]


async def ask_for_overlays(
    control: LaneSession, bases: Mapping[str, BaseImage], *, within_s: float = ANSWER_WITHIN_S
) -> str | None:
    """None when these disks are overlays at the recipient now, else why they are not; then they are whole disks.

    Raises `SignalError` where that is not known: nothing may be sent to disks of which one does not know what they are.
    """
    if len(bases) > MAX_DISKS:
        return f"{len(bases)} disks; at most {MAX_DISKS} become overlays"
    try:
        stream = control.open_stream(StreamKind.CONTROL, OVERLAYS)
        await stream.write(_Wanted(disks=dict(bases)).model_dump_json().encode())
        stream.write_eof()
        async with asyncio.timeout(within_s):
            answer = await stream.read()
    except StreamResetError as error:
        return error.reason
    except (LaneError, StreamError) as error:
        raise SignalError(f"the recipient's disks are not known: {error}") from error
    except TimeoutError:
        raise SignalError(f"the recipient's disks are not known: no answer within {within_s:.0f} s") from None
    return None if answer == GRANTED else answer.decode(errors="replace")[:500]


async def hear_wanted_overlays(stream: LaneStream) -> dict[str, BaseImage]:
    """The question that `stream` brings. Raises `SignalError`."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return _Wanted.model_validate_json(await stream.read()).disks
    except (LaneError, StreamError, ValidationError) as error:
        raise SignalError(f"a question for overlays cannot be read: {error}") from error
    except TimeoutError:
        raise SignalError("a question for overlays did not come") from None
