"""A real TAP device in a namespace of the test's own."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from services.node_agent.network.extension.offload import OFFLOAD_BYTES, PLAIN
from services.node_agent.network.extension.wire import MAX_RECORD_BYTES
from services.node_agent.network.frames import NO_IPV4, parse_arp
from services.node_agent.network.tap import Tap, TapError
from tests.support.card_frames import GUEST, who_has
from tests.support.namespaces import inside, ip, namespaces

needs_root = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
HOST_4 = bytes((10, 99, 8, 1))


def test_a_name_that_no_device_can_have() -> None:
    """Refused before anything is made."""
    for name in ("", "x" * 16):
        with pytest.raises(TapError, match="cannot be a device's name"):
            Tap(name)


@pytest.fixture
def namespace() -> Iterator[str]:
    """Removed with all that is in it."""
    with namespaces("host") as (name,):
        yield name


def read(tap: Tap, wanted: bytes, *, at: int = OFFLOAD_BYTES + 12) -> bytes:
    """The next record with these bytes at this place."""
    room = memoryview(bytearray(MAX_RECORD_BYTES))
    until_s = time.monotonic() + 5
    while time.monotonic() < until_s:
        size = tap.read_into(room)
        if size and bytes(room[at : at + len(wanted)]) == wanted:
            return bytes(room[:size])
    raise AssertionError("it did not come")


class TestOnTheHost:
    """With root."""

    pytestmark = needs_root

    def test_frames_go_in_and_out(self, namespace: str) -> None:
        """A question that is written into the device is answered by the namespace's kernel out of it."""
        with closing(inside(namespace, lambda: Tap("vmx0"))) as tap:
            ip("-n", namespace, "addr", "add", "10.99.8.1/24", "dev", "vmx0")
            assert tap.write(PLAIN + who_has(GUEST, bytes((10, 99, 8, 2)), HOST_4))
            answer = parse_arp(read(tap, b"\x08\x06")[OFFLOAD_BYTES:])
            assert (answer.sender, answer.target_mac) == (HOST_4, GUEST)
            room = memoryview(bytearray(MAX_RECORD_BYTES))
            while tap.read_into(room):
                pass
            assert tap.read_into(room) == 0

    def test_a_whole_send_is_one_frame(self, namespace: str) -> None:
        """TCP's segments are not cut for the device, and the header says how they are to be."""
        with closing(inside(namespace, lambda: Tap("vmx0", mtu_bytes=1400))) as tap:
            ip("-n", namespace, "addr", "add", "10.99.8.1/24", "dev", "vmx0")
            ip("-n", namespace, "neigh", "add", "10.99.8.2", "lladdr", "52:54:00:aa:bb:01", "dev", "vmx0")
            shown = subprocess.run(
                ["ip", "netns", "exec", namespace, "cat", "/sys/class/net/vmx0/mtu"], check=True, capture_output=True
            )
            assert shown.stdout.strip() == b"1400"
            client = inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            with closing(client):
                assert client.connect_ex(("10.99.8.2", 7)) != 0
                opening = read(tap, b"\x08\x00\x45")
                flags, _, _, _, starts_at, offset = struct.unpack("<BBHHHH", opening[:OFFLOAD_BYTES])
                assert (flags & 1, starts_at, offset) == (1, 34, 16)

    def test_it_ends_with_its_file(self, namespace: str) -> None:
        """Closed, the device is gone from the host; nothing is written any more."""
        tap = inside(namespace, lambda: Tap("vmx0"))
        devices = ["ip", "-n", namespace, "link", "show", "vmx0"]
        assert subprocess.run(devices, check=False, capture_output=True).returncode == 0
        tap.close()
        tap.close()
        assert subprocess.run(devices, check=False, capture_output=True).returncode != 0
        assert (tap.fileno(), tap.write(PLAIN + who_has(GUEST, NO_IPV4, HOST_4))) == (-1, False)

    def test_a_device_that_somebody_removes(self, namespace: str) -> None:
        """Reading raises the typed error, and so does a second device of the same name."""
        with closing(inside(namespace, lambda: Tap("vmx0"))) as tap:
            with pytest.raises(TapError, match="cannot be made"):
                inside(namespace, lambda: Tap("vmx0"))
            ip("-n", namespace, "link", "del", "vmx0")
            with pytest.raises(TapError, match="is gone"):
                read(tap, b"")

    def test_a_device_that_is_down_takes_nothing(self, namespace: str) -> None:
        """It says so, and is usable when it is up again; a header that the kernel refuses is refused alone."""
        with closing(inside(namespace, lambda: Tap("vmx0"))) as tap:
            frame = who_has(GUEST, NO_IPV4, HOST_4)
            ip("-n", namespace, "link", "set", "vmx0", "down")
            assert not tap.write(PLAIN + frame)
            ip("-n", namespace, "link", "set", "vmx0", "up")
            assert tap.write(PLAIN + frame)
            assert not tap.write(struct.pack("<BBHHHH", 1, 77, 0, 0, 0, 0) + frame)
            assert tap.write(PLAIN + frame)
