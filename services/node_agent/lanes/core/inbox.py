"""Inbox: the receiving side of a lane. Owns order, duplicates, gaps and what the application has consumed. Pure.

Rule 1: only the next number is taken; lower ones are duplicates, higher ones show a gap and are dropped, to be sent
        again.
Rule 2: a gap is judged within the sender's newest pass only: a frame of an older pass says nothing about what was
        lost since.
Rule 3: `consumed` is the end of the run of numbers whose every frame the application has finished with. Frames
        between it and `received` are in this process's memory, and never more than the window that this end announced.
"""

from __future__ import annotations

from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES
from shared.page_stream.frame import Frame, FrameType


class Inbox:
    """Decides frame by frame what is new."""

    def __init__(self, *, window_bytes: int) -> None:
        self.received = 0
        self.consumed = 0
        self.pass_seen = 0
        self.consumed_since_report_bytes = 0
        self.unconsumed_bytes = 0
        self._window_bytes = window_bytes
        self._highest_seen = 0
        self._unconsumed: dict[int, int] = {}

    @property
    def gap(self) -> bool:
        """Whether frames after `received` were lost in the newest pass."""
        return self._highest_seen > self.received

    def accept(self, frame: Frame) -> bool:
        """Whether the frame is numbered and next, hence to be delivered.

        Raises ValueError when it breaks the window.
        """
        if frame.resend_pass > self.pass_seen:
            # Rule 2: gaps that an older pass showed do not count any more.
            self.pass_seen = frame.resend_pass
            self._highest_seen = 0
        if frame.resend_pass == self.pass_seen:
            self._highest_seen = max(self._highest_seen, frame.sequence)
        if not frame.numbered or frame.sequence != self.received + 1:
            return False
        self.received += 1
        if frame.type is FrameType.DATA:
            cost = len(frame.payload) + FRAME_COST_BYTES
            self._unconsumed[self.received] = cost
            self.unconsumed_bytes += cost
            if self.unconsumed_bytes > self._window_bytes:
                raise ValueError(f"{self.unconsumed_bytes} bytes in flight, the window is {self._window_bytes}")
        else:
            self._advance()
        return True

    def consume(self, sequence: int) -> None:
        """The application is done with a delivered DATA frame. Raises KeyError for one that was not, or twice."""
        cost = self._unconsumed.pop(sequence)
        self.unconsumed_bytes -= cost
        self.consumed_since_report_bytes += cost
        self._advance()

    def reported(self) -> None:
        """A frame with the current figures has left."""
        self.consumed_since_report_bytes = 0

    def _advance(self) -> None:
        # Frames other than DATA have nothing to be consumed: they end with their arrival.
        while self.consumed < self.received and self.consumed + 1 not in self._unconsumed:
            self.consumed += 1
