"""LaneLink: what a lane needs of its route.

Owns the contract only; RabbitMQ's and TCP's links live with their libraries.
"""

from __future__ import annotations

from typing import Protocol

from shared.errors import VmportError
from shared.page_stream.frame import FrameBytes


class LinkDown(VmportError):
    """The route is away for now. Frames in flight may be lost; the lane resends them after `wait_up`."""

    code = "link_down"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the lane's route is away: {reason}")


class LaneLink(Protocol):
    """Both directions of one lane's route: whole frames in, whole frames out.

    A link may lose and duplicate frames. Within one connection it never reorders them. It needs no confirms and
    stores nothing: the lane bounds what is in flight. `send` may wait (backpressure of the route) and must be safe
    to cancel, with the frame then sent or lost. A frame that `receive` had in hand when it was cancelled may be lost.
    """

    async def send(self, frame: bytes) -> None:
        """Hand one frame to the route. Raises LinkDown while the route is away, in either direction."""
        ...

    async def receive(self) -> FrameBytes:
        """The next frame.

        Raises LinkDown while the route is away, in either direction, also when it breaks during the wait.
        """
        ...

    async def wait_up(self) -> None:
        """Return once both directions are usable again, at once if they are. Tries for ever; the session bounds it."""
        ...

    async def close(self) -> None:
        """Release the route. Idempotent."""
        ...
