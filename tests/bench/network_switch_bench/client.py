"""A client outside both providers: a UDP packet per family every millisecond, and when the kernel had each answer."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

EVERY_S: Final = 0.001
PORT: Final = 7
SOURCE_PORT: Final = 7777
WATCH_S: Final = 0.5
"""After the first answer: what is switched later must not interrupt it again."""
FAMILIES: Final = ("ipv4", "ipv6")
_PACKET: Final = struct.Struct(">QH")
_SO_TIMESTAMPNS: Final = 35
_STAMP: Final = struct.Struct("@qq")


@dataclass(frozen=True)
class Answer:
    """Times in nanoseconds since 1970: of the packet's leaving, and of the kernel's taking in the answer."""

    sent_ns: int
    came_ns: int
    mark: int


@dataclass(frozen=True)
class Seen:
    """The first answer, and the longest silence between two answers in the time that was watched afterwards."""

    first_ns: int
    silence_ms: float
    watched_s: float


def first_after(answers: Sequence[Answer], since_ns: int, mark: int) -> int | None:
    """When the first packet was answered by `mark` that had been sent after `since_ns`; None: none yet. Pure."""
    return min((each.came_ns for each in answers if each.mark == mark and each.sent_ns >= since_ns), default=None)


def seen(answers: Sequence[Answer], since_ns: int, mark: int) -> Seen | None:
    """The same, with what came afterwards. Pure."""
    first_ns = first_after(answers, since_ns, mark)
    if first_ns is None:
        return None
    later = sorted(each.came_ns for each in answers if each.mark == mark and each.came_ns >= first_ns)
    longest_ns = max((after - before for before, after in pairwise(later)), default=0)
    return Seen(first_ns, longest_ns / 1e6, (later[-1] - first_ns) / 1e9)


class Prober:
    """Sockets in the client's namespace, one per family."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._sockets = []
        for address, family in zip(addresses, (socket.AF_INET, socket.AF_INET6), strict=True):
            made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the other family has its own of this port
            made.bind(("", SOURCE_PORT))
            made.connect((address, PORT))
            self._sockets.append(made)
        self.answers: dict[str, list[Answer]] = {family: [] for family in FAMILIES}

    def close(self) -> None:
        """For the process that made it and has given it to another."""
        for each in self._sockets:
            each.close()

    def send(self) -> None:
        """A packet to each address; one that cannot be sent is one without an answer."""
        for each in self._sockets:
            with suppress(OSError):
                each.send(_PACKET.pack(time.time_ns(), 0))

    def take(self) -> None:
        """What has come since."""
        for family, each in zip(FAMILIES, self._sockets, strict=True):
            while True:
                try:
                    data, control, _, _ = each.recvmsg(64, 128)
                except BlockingIOError:
                    break
                except OSError:  # the network's word about an earlier packet
                    continue
                sent_ns, mark = _PACKET.unpack(data)
                seconds, nanoseconds = _STAMP.unpack_from(control[0][2])
                self.answers[family].append(Answer(sent_ns, seconds * 1_000_000_000 + nanoseconds, mark))


def serve(prober: Prober, pipe: Any) -> None:
    """Probe until told to end. The pipe brings (since_ns, mark, until_s), and takes what each family has `seen`."""
    with suppress(OSError):
        os.nice(-10)  # a late client would be measured with the rest
    asked: tuple[int, int, float] | None = None
    due_s = time.monotonic()
    while True:
        if pipe.poll():
            asked = pipe.recv()
            if asked is None:
                return
        prober.send()
        prober.take()
        if asked is not None:
            since_ns, mark, until_s = asked
            found = {family: seen(answers, since_ns, mark) for family, answers in prober.answers.items()}
            whole = all(each is not None and each.watched_s >= WATCH_S for each in found.values())
            if whole or time.time() > until_s:
                pipe.send(found)
                asked = None
        for each in prober.answers.values():
            del each[:-4000]
        due_s = max(due_s + EVERY_S, time.monotonic() - 0.01)
        time.sleep(max(0.0, due_s - time.monotonic()))
