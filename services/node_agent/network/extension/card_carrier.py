"""CardCarrier: one card's frames between its TAP device and the lane, both ways, through the filter. The hot path.

From the device: each wake-up reads what is there, up to a payload, in place; what passes waits in a bounded queue until
the lane takes it, several wake-ups in one payload if the lane is slower. To the device: frames are written from the
lane's own buffer. Nothing is copied but once, out of the read buffer.

Each end has a gate to its own network. At the recipient it is shut until the guest has spoken: until a frame of its MAC
was read from the device. What comes for it before waits, the newest `WAITING_BYTES`; then it is delivered, and the gate
stays open. The first frame to the donor is then a RARP of the card, so that the donor's bridge learns where the card
is, whatever the guest said; it is sent again whenever the lane begins. At the donor the gate is shut until the guest
stands still, which its own agent knows: until then nobody speaks for the guest by the extension, and what tries to is
dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from services.node_agent.network.extension.card import Card
from services.node_agent.network.extension.filter import CardFilter, is_control
from services.node_agent.network.extension.offload import OFFLOAD_BYTES, PLAIN, fault_of
from services.node_agent.network.extension.queue import BatchQueue
from services.node_agent.network.extension.stats import CardCounters, CardStats
from services.node_agent.network.extension.verdict import PASSED, Answered, Dropped, Reason, Towards, Verdict
from services.node_agent.network.extension.wire import (
    MAX_PAYLOAD_BYTES,
    MIN_RECORD_BYTES,
    BatchError,
    BatchWriter,
    decode,
    encode,
)
from services.node_agent.network.frames import reverse_arp

QUEUE_BYTES: Final = 1 << 20
QUEUE_S: Final = 0.1
"""For the lane: so much of what it does not take at once may wait, and for so long. 1 MiB is 84 ms at 100 Mbit/s."""
SEND_BYTES: Final = MAX_PAYLOAD_BYTES // 2
"""Joined into one payload. The lane has two payloads in flight at least, and what waits there waits for all."""
WAITING_BYTES: Final = 1 << 20
"""For the guest, before it has spoken."""
FRAMES_AT_ONCE: Final = 128
"""Read per wake-up, so that others on the event loop have their turn."""


class FrameDevice(Protocol):
    """What is used of a Tap."""

    def fileno(self) -> int:
        """For the event loop; -1 once it is closed."""
        ...

    def read_into(self, room: memoryview) -> int:
        """Read one frame with its header; its size, 0 if there is none now. Raises TapError when it is gone."""
        ...

    def write(self, record: bytes | memoryview) -> bool:
        """Give a frame with its header to the host; False when it was not taken."""
        ...

    def close(self) -> None:
        """Remove it; idempotent."""
        ...


class CardCarrier:
    """Both directions of one card; a CardPort of the lane. `towards` is where this end sends."""

    def __init__(
        self,
        tap: FrameDevice,
        card: Card,
        towards: Towards,
        *,
        activated: bool = False,
        on_activated: Callable[[], None],
    ) -> None:
        self._tap = tap
        self._filter = CardFilter(card)
        self._mtu_bytes = card.mtu_bytes
        self._mac = card.mac
        self._towards = towards
        self._incoming = Towards.RECIPIENT if towards is Towards.DONOR else Towards.DONOR
        self._loop = asyncio.get_running_loop()
        self._batch = BatchWriter()
        self._queue = BatchQueue(QUEUE_BYTES, limit_s=QUEUE_S)
        self._waiting = BatchQueue(WAITING_BYTES)
        self._filled = asyncio.Event()
        self._counters = CardCounters()
        self._activated = activated
        self._spoke_early = False
        self._on_activated = on_activated

    @property
    def activated(self) -> bool:
        """Whether the gate is open: frames of the other end may go into this end's device."""
        return self._activated

    def stats(self) -> CardStats:
        """Counters so far."""
        self._counters.dropped[Reason.QUEUE] = self._queue.dropped_frames
        self._counters.dropped[Reason.WAITING] = self._waiting.dropped_frames
        return self._counters.snapshot(activated=self._activated)

    # From the device to the lane ------------------------------------------------------------------------------------

    def read_device(self) -> None:
        """Read what is there; called when the device is readable. Raises TapError when it is gone."""
        batch, counters = self._batch, self._counters
        traffic = False
        for _ in range(FRAMES_AT_ONCE):
            if batch.is_full:
                break
            room = batch.room()
            size = self._tap.read_into(room)
            if not size:
                break
            if size < MIN_RECORD_BYTES:
                counters.dropped[Reason.MALFORMED] += 1
                continue
            frame = room[OFFLOAD_BYTES:size]
            if not self._activated and self._towards is Towards.DONOR and self._filter.is_from_card(frame):
                self.activate()
            verdict = self._filter.judge(frame, self._towards)
            if verdict is PASSED:
                batch.keep(size)
                traffic = traffic or not is_control(frame)
            else:
                self._refuse(verdict)
        if traffic:
            counters.last_traffic_s = self._loop.time()
        if batch.records:
            frames = batch.records
            self._put(batch.take(), frames)

    def _refuse(self, verdict: Verdict) -> None:
        """Drop, or give the answer back to the device: only the recipient's end hears the guest's questions."""
        if isinstance(verdict, Answered):
            self._counters.answered_frames += 1
            self._write(PLAIN + verdict.frame)
        elif isinstance(verdict, Dropped):
            self._counters.dropped[verdict.reason] += 1

    def _put(self, batch: bytes, frames: int) -> None:
        self._queue.put(batch, frames, self._loop.time())
        self._counters.sent(frames, len(batch))
        self._filled.set()

    async def next_payload(self) -> bytes:
        """What is to be sent next; waits for it."""
        while not (payload := self._queue.take(SEND_BYTES, self._loop.time())):
            self._filled.clear()
            await self._filled.wait()
        return payload

    def began(self) -> None:
        """The lane has begun, so the donor's device may be another one: tell its bridge where the card is."""
        if self._activated and self._towards is Towards.DONOR:
            self._put(encode([PLAIN + reverse_arp(self._mac)]), 1)

    def unsent(self, payload: bytes) -> None:
        """A payload that was taken and cannot be sent."""
        self._counters.dropped[Reason.LANE] += len(decode(payload))

    # From the lane to the device ------------------------------------------------------------------------------------

    def deliver(self, payload: memoryview | bytes) -> None:
        """Frames of the other end: those that pass go into the device, or wait for the guest."""
        try:
            records = decode(payload)
        except BatchError:
            self._counters.dropped[Reason.MALFORMED] += 1
            return
        traffic = False
        for record in records:
            frame = record[OFFLOAD_BYTES:]
            if fault_of(record[:OFFLOAD_BYTES], frame, mtu_bytes=self._mtu_bytes) is not None:
                self._counters.dropped[Reason.OFFLOAD] += 1
                continue
            verdict = self._filter.judge(frame, self._incoming)
            if verdict is PASSED:
                self._give(record)
                traffic = traffic or not is_control(frame)
            else:
                self._counters.dropped[verdict.reason if isinstance(verdict, Dropped) else Reason.ANSWERED] += 1
        if traffic:
            self._counters.last_traffic_s = self._loop.time()

    def _give(self, record: memoryview) -> None:
        if self._activated:
            self._write(record)
            self._counters.received(len(record))
        elif self._towards is Towards.RECIPIENT:
            self._counters.dropped[Reason.EARLY] += 1
            self._spoke_early = True
        else:
            self._waiting.put(encode([record]), 1, self._loop.time())

    def _write(self, record: memoryview | bytes) -> None:
        if not self._tap.write(record):
            self._counters.dropped[Reason.DEVICE] += 1

    def deactivate(self) -> None:
        """Donor: the guest runs here again, and the gate is shut. Idempotent."""
        self._activated = self._spoke_early = False

    def activate(self) -> None:
        """The guest runs at the recipient, or may from now on: the gate opens. Idempotent."""
        if self._activated:
            return
        self._activated = True
        self.began()
        if self._spoke_early:
            # The recipient has announced the guest before this gate was open, and a guest that only answers would not
            # speak again: nobody asks it, as long as this bridge does not know where it is.
            self._write(PLAIN + reverse_arp(self._mac))
        while waiting := self._waiting.take(MAX_PAYLOAD_BYTES, self._loop.time()):
            for record in decode(waiting):
                self._give(record)
        self._on_activated()
