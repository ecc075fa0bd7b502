"""The sockets of a path's probe: one that hears datagrams before any filter of this host, and those that send them.

Needs CAP_NET_RAW to hear, CAP_NET_ADMIN to send by a source that is not this host's.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from typing import Final

from services.node_agent.network.packets import attach_filter
from services.node_agent.network.paths.probe import Datagram, Question, Target, build, read

_ETH_P_ALL: Final = 3
_FOUR: Final = (socket.SOL_IP, 19, 10)
_SIX: Final = (socket.IPPROTO_IPV6, 75, 23)
"""Level, and the numbers of IP_TRANSPARENT and IP_MTU_DISCOVER, of each family; Python does not name them all."""
_PROBE: Final = 3
"""Never fragment, and take no notice of what is known of the path."""
_FRAME_BYTES: Final = 65_536


def filter_steps(port: int) -> tuple[tuple[int, int, int, int], ...]:
    """A packet filter: UDP of both families to this port, without options before it in IPv6."""
    return (
        (0x30, 0, 0, 0),  # the first byte
        (0x54, 0, 0, 0xF0),
        (0x15, 0, 5, 0x40),  # IPv4?
        (0x30, 0, 0, 9),
        (0x15, 0, 9, socket.IPPROTO_UDP),
        (0xB1, 0, 0, 0),  # X = length of its header
        (0x48, 0, 0, 2),
        (0x15, 5, 6, port),
        (0x15, 0, 5, 0x60),  # IPv6?
        (0x30, 0, 0, 6),
        (0x15, 0, 3, socket.IPPROTO_UDP),
        (0x28, 0, 0, 42),
        (0x15, 0, 1, port),
        (0x06, 0, 0, _FRAME_BYTES),
        (0x06, 0, 0, 0),
    )


class PathListener:
    """Hears what comes for one port of this host, on all of its devices."""

    def __init__(self) -> None:
        """Raises OSError."""
        # It takes the port, so that nobody else has it and no error is answered. What comes is read below it.
        self._holder = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            self._holder.bind(("::", 0))
            self.port = int(self._holder.getsockname()[1])
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            # On all devices at once; the few frames that come before the filter are told apart by what is in them.
            self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        except OSError:
            self._holder.close()
            raise
        try:
            attach_filter(self._socket, filter_steps(self.port))
        except OSError:
            self.close()
            raise

    def heard(self, question: Question) -> set[Datagram]:
        """What has come since the last call."""
        found = set[Datagram]()
        while True:
            try:
                packet = self._socket.recv(_FRAME_BYTES)
            except BlockingIOError:
                return found
            if (datagram := read(question, packet)) is not None:
                found.add(datagram)

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()
        self._holder.close()


def send_datagrams(question: Question, target: Target, wanted: Iterable[Datagram]) -> tuple[str, ...]:
    """Send all; returns what this host itself did not send, and why."""
    refused = []
    for datagram in wanted:
        try:
            _send(question, target, datagram)
        except OSError as error:
            by = datagram.source or "its own address"
            refused.append(f"{datagram.size} bytes by {by}: {error.strerror}")
    return tuple(refused)


def _send(question: Question, target: Target, datagram: Datagram) -> None:
    family = socket.AF_INET if datagram.version == 4 else socket.AF_INET6
    level, transparent, discover = _FOUR if datagram.version == 4 else _SIX
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as out:
        out.setsockopt(level, discover, _PROBE)
        if datagram.source is not None:
            out.setsockopt(level, transparent, 1)
            out.bind((datagram.source, 0))
        out.sendto(build(question, datagram), (target.address, target.port))


def own_address(towards: str) -> str | None:
    """By which address this host sends to another; None where it has no way there."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.connect((towards, 9))
            return str(out.getsockname()[0])
    except OSError:
        return None  # also of a kernel without this family


def own_addresses(direct: Iterable[str], theirs: Iterable[str]) -> tuple[str, ...]:
    """By which addresses the other node can send to this one: at most one per family.

    `direct` and `theirs` are where the lanes of both can be reached, as HOST:PORT. What is not said there is what this
    host takes to send to the other, or to the world.
    """
    found: dict[bool, str] = {}
    for address in (*map(_host, direct), *(own_address(each) for each in map(_host, theirs) if each), *_by_default()):
        if address is not None and not ipaddress.ip_address(address).is_loopback:
            found.setdefault(":" in address, address)
    return tuple(found.values())


def _host(place: str) -> str | None:
    """The address in HOST:PORT; None for a name."""
    host = place.rpartition(":")[0].strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _by_default() -> Iterator[str | None]:
    # Nothing is sent there: they are for documentation.
    yield own_address("192.0.2.1")
    yield own_address("2001:db8:ffff::1")
