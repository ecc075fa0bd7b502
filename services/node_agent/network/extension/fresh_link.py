"""FreshLink: a lane's link that outlives the lane's sessions, and shows each session only frames that are meant for it.

A lane cannot go on when one of its ends has lost its state, so the sessions of an extension follow each other: when an
agent restarts, when the other end was silent for too long, when keys are used up. A relay keeps what was sent to former
sessions and delivers it first. Were it believed, each end would end its new session because of the other's old one.

Rule 1  A session begins when nothing has come for `QUIET_S`, or after `DRAIN_S`. What comes before is dropped, but the
        latest HELLO that could be for it.
Rule 2  A HELLO that names another epoch for this end is for a former session, and is dropped. The other end sees this
        end's new epoch, and begins again.
Rule 3  An ABORT counts only if it is of the epoch that this session speaks to.
"""

from __future__ import annotations

import asyncio
from typing import Final

from services.node_agent.lanes.routes.link import LaneLink
from shared.page_stream.bodies import decode_hello
from shared.page_stream.errors import FrameError
from shared.page_stream.frame import FrameBytes, FrameType, decode_frame

QUIET_S: Final = 0.05
DRAIN_S: Final = 1.0


class FreshLink:
    """A LaneLink for one session of `epoch`; `link` is not closed with it."""

    def __init__(self, link: LaneLink, *, epoch: int) -> None:
        self._link = link
        self._epoch = epoch
        self._peer_epoch = 0
        self._first: FrameBytes | None = None

    async def settle(self) -> None:
        """Wait for the route and drop what is old. Raises LinkDown when the route goes meanwhile."""
        await self._link.wait_up()
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                async with asyncio.timeout(QUIET_S):
                    frame = await self._link.receive()
            except TimeoutError:
                return
            if _type_of(frame) == FrameType.HELLO and self._is_current(frame):
                self._first = frame

    async def send(self, frame: bytes) -> None:
        """As the link."""
        await self._link.send(frame)

    async def receive(self) -> FrameBytes:
        """The next frame that is meant for this session."""
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        while True:
            frame = await self._link.receive()
            if _type_of(frame) not in {FrameType.HELLO, FrameType.ABORT} or self._is_current(frame):
                return frame

    async def wait_up(self) -> None:
        """As the link."""
        await self._link.wait_up()

    async def close(self) -> None:
        """The link stays."""

    def _is_current(self, data: FrameBytes) -> bool:
        try:
            frame = decode_frame(data)
            if frame.type is FrameType.ABORT:
                return frame.epoch == self._peer_epoch
            if decode_hello(frame.payload).peer_epoch not in {0, self._epoch}:
                return False
        except FrameError:
            return True  # the session ends by it, and says why
        self._peer_epoch = frame.epoch
        return True


def _type_of(data: FrameBytes) -> int:
    """A frame's type without decoding it all."""
    return data[5] if len(data) > 5 else 0
