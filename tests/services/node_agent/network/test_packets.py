"""Frames sent at a device arrive as they are at its other end."""

from __future__ import annotations

import socket
import subprocess
from contextlib import suppress

import pytest

from services.node_agent.network.frames import gratuitous_arps
from services.node_agent.network.icmpv6 import Neighbour, build_neighbour, unsolicited_advertisement
from services.node_agent.network.packets import hear_discovery, mac_of, send_frames
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


def test_a_devices_mac_is_known() -> None:
    with own_network():
        command = "ip link add left address 02:00:00:00:00:07 type veth peer name right"
        subprocess.run(command.split(), check=True, timeout=10)
        assert mac_of("left") == bytes.fromhex("020000000007")
        with pytest.raises(OSError, match="No such device"):
            mac_of("none")


def test_only_solicitations_are_heard() -> None:
    mac, address = bytes.fromhex("525400000010"), bytes.fromhex("fd00008100010000") + bytes(7) + b"\x10"
    asked = build_neighbour(
        Neighbour(
            destination=bytes.fromhex("3333ff000010"),
            source=mac,
            from_address=address,
            to_address=address,
            advertises=False,
            target=address,
        )
    )
    with own_network():
        subprocess.run(["ip", "link", "add", "left", "type", "veth", "peer", "name", "right"], check=True, timeout=10)
        for device in ("left", "right"):
            subprocess.run(["ip", "link", "set", device, "up"], check=True, timeout=10)
        with hear_discovery("right") as heard:
            heard.settimeout(0.5)
            for _ in range(10):  # a link may come up late
                send_frames("left", [unsolicited_advertisement(mac, address), asked])
                with suppress(TimeoutError):
                    while (frame := heard.recv(2000))[6:12] != mac:
                        continue
                    break
            assert frame == asked
        with pytest.raises(OSError, match="No such device"):
            hear_discovery("none")
