"""Sends frames at devices of this host, as they are. Needs CAP_NET_RAW."""

from __future__ import annotations

import socket
from collections.abc import Iterable


def send_frames(device: str, frames: Iterable[bytes]) -> None:
    """Send all; a bridge's device sends to all of its ports. One that finds no room is dropped. Raises OSError."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0) as out:
        out.bind((device, 0))
        for frame in frames:
            try:
                out.send(frame)
            except BlockingIOError:
                continue
