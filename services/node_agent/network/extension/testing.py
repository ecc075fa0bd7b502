"""A TAP device in memory, for tests of what uses one. Ships with the product, like every fake of ours."""

from __future__ import annotations

import socket

from services.node_agent.network.extension.offload import OFFLOAD_BYTES, PLAIN
from services.node_agent.network.tap import TapError

_LARGEST_BYTES = 1 << 17


class MemoryTap:
    """A FrameDevice; `host_send` and `host_receive` are the host at its other side."""

    def __init__(self) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self._device, self._host = socket.socketpair(socket.AF_UNIX, kind)
        self.takes = True
        """Whether it takes what is written."""

    def fileno(self) -> int:
        """For the event loop."""
        return self._device.fileno()

    def read_into(self, room: memoryview) -> int:
        """As a Tap."""
        try:
            size = self._device.recv_into(room)
        except BlockingIOError:
            return 0
        if not size:
            raise TapError("the device is gone")
        return size

    def write(self, record: bytes | memoryview) -> bool:
        """As a Tap."""
        if not self.takes or self._device.fileno() < 0:
            return False
        try:
            return self._device.send(record) == len(record)
        except OSError:
            return False

    def close(self) -> None:
        """As a Tap; the host hears no more."""
        self._device.close()

    def host_send(self, frame: bytes, *, header: bytes = PLAIN) -> None:
        """The host sends a frame by the device."""
        self._host.send(header + frame)

    def host_receive(self) -> list[bytes]:
        """All frames that the host has got since, without their headers."""
        found: list[bytes] = []
        while True:
            try:
                record = self._host.recv(_LARGEST_BYTES)
            except BlockingIOError:
                return found
            if not record:
                return found
            found.append(record[OFFLOAD_BYTES:])

    def remove(self) -> None:
        """Somebody removes the device."""
        self._host.close()
