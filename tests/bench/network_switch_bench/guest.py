"""A host of a few lines in place of the guest: it answers ARP, neighbour solicitations and UDP echo at a TAP device.

There is one at each side, with one MAC and the same addresses, and one of them runs. One that stands still reads
nothing, so what is sent to it waits in its device as it does for a guest that is paused. Each echo says in its last two
bytes who has answered.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
from typing import Any, Final

from services.node_agent.network.frames import (
    NO_IPV4,
    FrameError,
    address_bytes,
    arp_reply,
    mac_bytes,
    parse_arp,
    reverse_arp,
)
from services.node_agent.network.icmpv6 import neighbour_answer, parse_neighbour

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_IPV4, _IPV6, _ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
_UDP: Final = 17
MARK: Final = struct.Struct(">H")


def open_tap(name: str) -> int:
    """A TAP device in this thread's namespace; it ends with its file."""
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return file


class Answers:
    """What the guest says to a frame. Pure."""

    def __init__(self, mac: str, addresses: tuple[str, ...], mark: int) -> None:
        self.mac = mac_bytes(mac)
        self._addresses = frozenset(address_bytes(each) for each in addresses)
        self._mark = mark

    def answer(self, frame: bytes) -> bytes | None:
        """The frame that it sends; None: nothing."""
        kind = frame[12:14]
        try:
            if kind == _ARP:
                asked = parse_arp(frame)
                mine = asked.target in self._addresses and asked.sender != NO_IPV4
                return arp_reply(asked, self.mac) if mine and asked.operation == 1 else None
            if kind == _IPV4 and frame[23] == _UDP:
                return self._echo(frame, 26, 4, 14 + 4 * (frame[14] & 15))
            if kind == _IPV6 and frame[20] == _UDP:
                return self._echo(frame, 22, 16, 54)
            if kind == _IPV6:
                solicited = parse_neighbour(frame)
                if solicited.target in self._addresses and not solicited.advertises:
                    return neighbour_answer(solicited, self.mac, router=False)
        except FrameError:
            return None
        return None

    def _echo(self, frame: bytes, at: int, size: int, udp: int) -> bytes | None:
        """Both ends change places, which changes no checksum; the mark in place of two zeros does."""
        source, to = frame[at : at + size], frame[at + size : at + 2 * size]
        if to not in self._addresses or frame[:6] != self.mac:
            return None
        answer = bytearray(frame)
        answer[:6], answer[6:12] = frame[6:12], self.mac
        answer[at : at + size], answer[at + size : at + 2 * size] = to, source
        answer[udp : udp + 2], answer[udp + 2 : udp + 4] = frame[udp + 2 : udp + 4], frame[udp : udp + 2]
        end = udp + int.from_bytes(frame[udp + 4 : udp + 6])
        answer[end - 2 : end] = MARK.pack(self._mark)
        checksum = int.from_bytes(frame[udp + 6 : udp + 8])
        total = (~checksum & 0xFFFF) + self._mark
        answer[udp + 6 : udp + 8] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2)
        return bytes(answer)


def serve(taps: dict[str, int], answers: dict[str, Answers], pipe: Any) -> None:
    """Be the guest where it runs. The pipe brings (word, place) with the words run, stand, announce, end."""
    running: set[str] = set()
    while True:
        readable, _, _ = select.select([pipe.fileno(), *(taps[place] for place in running)], [], [])
        if pipe.fileno() in readable:
            word, place = pipe.recv()
            if word == "end":
                return
            if word == "announce":
                _write(taps[place], reverse_arp(answers[place].mac))
            if word in {"run", "stand"}:
                (running.add if word == "run" else running.discard)(place)
        for place in tuple(running):
            if taps[place] in readable:
                _read(taps[place], answers[place])


def _read(tap: int, answers: Answers) -> None:
    for _ in range(64):
        try:
            frame = os.read(tap, 2048)
        except BlockingIOError:
            return
        if (answer := answers.answer(frame)) is not None:
            _write(tap, answer)


def _write(tap: int, frame: bytes) -> None:
    try:
        os.write(tap, frame)
    except OSError:
        return  # its device is in no bridge yet
