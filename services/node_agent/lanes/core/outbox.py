"""Outbox: the sending side of a lane. Owns numbers, window and what may have to be sent again. Pure; builds no
frames.

Rule 1: a unit is numbered when it is put, and kept until the other end says `received`; it counts against the window
        until it says `consumed`.
Rule 2: units leave in the order of their numbers. `sent_through` is the last number sent in the current pass; every
        frame that leaves names it, so on a route that keeps order any later frame shows the other end what was lost.
Rule 3: only the other end's report of a gap, made in the current pass, sends units again (go-back-N). Each time
        starts a new pass, so a report that is older changes nothing. A link that is merely slow causes
        no repetition at all.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from shared.page_stream.frame import FrameType

FRAME_COST_BYTES: Final = 512
"""What a DATA frame costs in the window besides its payload, so that many small frames are bounded too."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One numbered frame as far as it never changes."""

    sequence: int
    type: FrameType
    stream_id: int
    payload: memoryview | bytes


class Outbox:
    """Numbers and keeps what was sent. `window_bytes` is 0 until the other end's window is known."""

    def __init__(self) -> None:
        self.window_bytes = 0
        self.received = 0
        self.consumed = 0
        self.resend_pass = 0
        self.unconsumed_bytes = 0
        self.unconsumed_raw_bytes = 0
        self._last = 0
        self._cursor = 1
        self._highest_sent = 0
        self._kept: dict[int, Unit] = {}
        self._costs: deque[tuple[int, int, int]] = deque()

    @property
    def sent_through(self) -> int:
        """The last number sent in this pass; 0 before the first."""
        return self._cursor - 1

    @property
    def pending(self) -> bool:
        """Whether a unit waits to be sent, for the first time or again."""
        return self._cursor <= self._last

    @property
    def unanswered(self) -> bool:
        """Whether something was sent that the other end has not reported as consumed."""
        return self.consumed < self._highest_sent

    @property
    def all_received(self) -> bool:
        """Whether the other end has reported every unit ever put as received: nothing is under way."""
        return self.received == self._last

    @property
    def unconsumed_units(self) -> int:
        """How many of the units ever put the other end has not consumed."""
        return self._last - self.consumed

    @property
    def unconsumed_payloads(self) -> int:
        """The part of them that is DATA, hence in the window."""
        return len(self._costs)

    @property
    def unconsumed_controls(self) -> int:
        """The part of them that is not DATA, hence outside the window."""
        return self.unconsumed_units - self.unconsumed_payloads

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a DATA payload of this size fits the window now."""
        return self.unconsumed_bytes + payload_bytes + FRAME_COST_BYTES <= self.window_bytes

    def append(
        self, frame_type: FrameType, stream_id: int, payload: memoryview | bytes = b"", *, raw_bytes: int = 0
    ) -> None:
        """Number and keep one unit; DATA counts against the window. `payload` must never change afterwards.

        `raw_bytes` is what the other application makes of it.
        """
        self._last += 1
        self._kept[self._last] = Unit(self._last, frame_type, stream_id, payload)
        if frame_type is FrameType.DATA:
            cost = len(payload) + FRAME_COST_BYTES
            self._costs.append((self._last, cost, raw_bytes))
            self.unconsumed_bytes += cost
            self.unconsumed_raw_bytes += raw_bytes

    def next_unit(self) -> tuple[Unit, bool]:
        """The next unit to send, and whether it was sent before. Only when `pending`."""
        unit = self._kept[self._cursor]
        again = self._cursor <= self._highest_sent
        self._cursor += 1
        self._highest_sent = max(self._highest_sent, unit.sequence)
        return unit, again

    def report(self, *, received: int, consumed: int, pass_seen: int, gap: bool) -> bool:
        """Learn what the other end has; True when that is more than before.

        Raises ValueError with the finding when it claims what cannot be. Older reports than the newest are harmless.
        """
        if received > self._highest_sent:
            raise ValueError(f"it claims to have frame {received}, the last one sent was {self._highest_sent}")
        if consumed > received:
            raise ValueError(f"it claims to have consumed frame {consumed}, but received only {received}")
        if pass_seen > self.resend_pass:
            raise ValueError(f"it claims to have seen pass {pass_seen}, this is pass {self.resend_pass}")
        progress = received > self.received or consumed > self.consumed
        for sequence in range(self.received + 1, received + 1):
            del self._kept[sequence]
        self.received = max(self.received, received)
        self.consumed = max(self.consumed, consumed)
        while self._costs and self._costs[0][0] <= self.consumed:
            _, cost, raw_bytes = self._costs.popleft()
            self.unconsumed_bytes -= cost
            self.unconsumed_raw_bytes -= raw_bytes
        # What the other end has by now need not be sent again, also when this pass has not come so far.
        self._cursor = max(self._cursor, self.received + 1)
        # Rule 3. If this pass has sent nothing beyond `received`, nothing of it can be missing.
        if gap and pass_seen == self.resend_pass and self._cursor > self.received + 1:
            self._cursor = self.received + 1
            self.resend_pass += 1
        return progress
