"""Sends and hears frames at devices of this host, as they are. Needs CAP_NET_RAW."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

from services.node_agent.network.frames import EtherType

_SO_ATTACH_FILTER: Final = 26
_PROGRAM: Final = struct.Struct("@HP")
_STEP: Final = struct.Struct("@HBBI")
_DISCOVERY: Final = (
    (0x30, 0, 0, 20),  # the next header of IPv6
    (0x15, 0, 3, socket.IPPROTO_ICMPV6),
    (0x30, 0, 0, 54),
    (0x15, 2, 0, 133),  # a router solicitation
    (0x15, 1, 0, 135),  # a neighbour solicitation
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFF),
)
"""A packet filter: what hosts ask for on a segment of IPv6."""


def send_frames(device: str, frames: Iterable[bytes]) -> None:
    """Send all; a bridge's device sends to all of its ports. One that finds no room is dropped. Raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0) as out:
        out.bind((device, 0))
        for frame in frames:
            try:
                out.send(frame)
            except BlockingIOError:
                continue


def mac_of(device: str) -> bytes:
    """The MAC address of a device of this host. Raises OSError where there is none."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as at:
        at.bind((device, 0))
        mac: bytes = at.getsockname()[4]
        return mac


def attach_filter(listener: socket.socket, steps: Iterable[tuple[int, int, int, int]]) -> None:
    """Have the kernel give a socket only what this classic packet filter lets pass. Raises OSError."""
    program = b"".join(_STEP.pack(*step) for step in steps)
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = _PROGRAM.pack(len(program) // _STEP.size, ctypes.addressof(buffer))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def hear_discovery(device: str) -> socket.socket:
    """A socket that never waits, and hears the solicitations of IPv6 that come in at a device. Raises OSError."""
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(listener, _DISCOVERY)
        listener.bind((device, EtherType.IPV6))
    except OSError:
        listener.close()
        raise
    return listener
