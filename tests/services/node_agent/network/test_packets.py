"""Frames sent at a device arrive as they are at its other end."""

from __future__ import annotations

import socket
import subprocess

import pytest

from services.node_agent.network.frames import gratuitous_arps
from services.node_agent.network.packets import send_frames
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root


def test_frames_arrive() -> None:
    frames = gratuitous_arps(bytes.fromhex("525400000010"), bytes((10, 81, 1, 10)))
    with own_network():
        subprocess.run(["ip", "link", "add", "left", "type", "veth", "peer", "name", "right"], check=True, timeout=10)
        for device in ("left", "right"):
            subprocess.run(["ip", "link", "set", device, "up"], check=True, timeout=10)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as heard:
            heard.bind(("right", 0x0806))
            heard.settimeout(5)
            send_frames("left", frames)
            assert [heard.recv(2000) for _ in frames] == list(frames)
        with pytest.raises(OSError, match="No such device"):
            send_frames("none", frames)
