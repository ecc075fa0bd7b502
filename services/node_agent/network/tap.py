"""Tap: a TAP device of this process. Owns the device and its file; not the bridge that it is put into.

A frame is read and written with the kernel's offload header before it (`extension.offload`), so that a whole TCP send
of up to 64 KiB is one frame. The device ends with the file: when the process dies, the kernel removes it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

from services.node_agent.network.extension.offload import OFFLOAD_BYTES
from shared.errors import VmportError

QUEUE_FRAMES: Final = 512
"""What the kernel lets wait before it drops: with full frames 32 MiB, with packets of 1500 bytes 768 KB."""

# Of <linux/if_tun.h>, <linux/sockios.h> and <linux/if.h>; Python does not name them.
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ, _TUNSETVNETLE = 0x400454CA, 0x400454D0, 0x400454D8, 0x400454DC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_CHECKSUM, _TSO_4, _TSO_6, _TSO_ECN = 0x01, 0x02, 0x04, 0x08
_GET_FLAGS, _SET_FLAGS, _SET_MTU, _SET_QUEUE = 0x8913, 0x8914, 0x8922, 0x8943
_IFF_UP = 0x1
_REQUEST = struct.Struct("16sH22x")
_REQUEST_INT = struct.Struct("16si20x")
_NAME_BYTES: Final = 15


class TapError(VmportError):
    """A TAP device cannot be made or is gone."""

    code = "tap"


class Tap:
    """An open TAP device. Reads and writes never wait."""

    def __init__(self, name: str, *, mtu_bytes: int = 1500) -> None:
        """Make the device in this thread's network namespace and set it up. Raises TapError."""
        if not 0 < len(name.encode()) <= _NAME_BYTES:
            raise TapError(f"{name!r} cannot be a device's name")
        self.name = name
        self.mtu_bytes = mtu_bytes
        try:
            self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TapError(f"/dev/net/tun cannot be opened: {error.strerror}") from error
        try:
            self._make()
        except OSError as error:
            self.close()
            raise TapError(f"TAP device {name} cannot be made: {error.strerror}") from error

    def fileno(self) -> int:
        """For the event loop; -1 once it is closed."""
        return self._file

    def read_into(self, room: memoryview) -> int:
        """Read one frame with its header; its size, 0 if there is none now. Raises TapError when the device is gone."""
        try:
            return os.readv(self._file, (room,))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise TapError(f"TAP device {self.name} is gone: {error.strerror}") from error

    def write(self, record: bytes | memoryview) -> bool:
        """Give a frame with its header to the host; False when it was not taken: the device is down, or full, or the
        kernel finds the frame wrong.
        """
        try:
            return os.write(self._file, record) == len(record)
        except OSError:
            return False

    def close(self) -> None:
        """Remove the device; idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _make(self) -> None:
        name = self.name.encode()
        fcntl.ioctl(self._file, _TUNSETIFF, _REQUEST.pack(name, _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(self._file, _TUNSETVNETHDRSZ, struct.pack("i", OFFLOAD_BYTES))
        fcntl.ioctl(self._file, _TUNSETVNETLE, struct.pack("i", 1))
        fcntl.ioctl(self._file, _TUNSETOFFLOAD, _CHECKSUM | _TSO_4 | _TSO_6 | _TSO_ECN)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
            fcntl.ioctl(control, _SET_MTU, _REQUEST_INT.pack(name, self.mtu_bytes))
            fcntl.ioctl(control, _SET_QUEUE, _REQUEST_INT.pack(name, QUEUE_FRAMES))
            _, flags = _REQUEST.unpack(fcntl.ioctl(control, _GET_FLAGS, _REQUEST.pack(name, 0)))
            fcntl.ioctl(control, _SET_FLAGS, _REQUEST.pack(name, flags | _IFF_UP))
