"""Netlink messages of the kernel's connection tracking (ctnetlink): build and parse. Pure.

By hand, since a host has thousands of entries and what is left of them is carried while the guest stands still: this
takes some 20 microseconds per entry, a general netlink library 5 milliseconds. Readers raise `WireError` and nothing
else. Layout and numbers: linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_tcp.h.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from services.node_agent.network.tracking.values import MAX_TIMEOUT_S, ConnectionKey, Protocol, TrackedConnection
from shared.errors import VmportError

_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("=BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NESTED: Final = 0x8000
_TYPE: Final = 0x3FFF
NEW, GET, DELETE = 0x100, 0x101, 0x102
"""Message types, with the number of the subsystem."""
ERROR, DONE = 2, 3
_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO, _TIMEOUT, _ZONE, _FILTER = 1, 2, 3, 4, 7, 18, 25
_SEEN_REPLY, _ASSURED, _CONFIRMED = 0x2, 0x4, 0x8
_SCALED, _LIBERAL = 0x1, 0x8
_NUMBERS: Final[dict[Protocol, int]] = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES: Final[dict[int, Protocol]] = {number: name for name, number in _NUMBERS.items()}


class WireError(VmportError):
    """These bytes are no message of connection tracking."""

    code = "bad_tracking_message"


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
    """One message; `body` is what follows its header."""

    kind: int
    sequence: int
    body: bytes

    @property
    def error(self) -> int:
        """Of an acknowledgement: the error's number, 0 for none."""
        if len(self.body) < 4:
            raise WireError("an acknowledgement is too short")
        return -int(struct.unpack_from("=i", self.body)[0])


@dataclass(frozen=True, slots=True)
class TrackedEntry:
    """An entry of the kernel's. `connection` None: it cannot be carried, by its protocol or its zone."""

    ends: tuple[str, str]
    """Source and destination."""
    ports: tuple[int, int]
    reply_ends: tuple[str, str]
    reply_ports: tuple[int, int]
    translated: bool
    connection: TrackedConnection | None


def messages(data: bytes) -> Iterator[NetlinkMessage]:
    """Those in one datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            raise WireError("a message is longer than its datagram")
        yield NetlinkMessage(kind, sequence, data[at + _HEADER.size : at + length])
        at += _padded(length)


def dump_request(sequence: int, address: str, *, reply: bool, source: bool) -> bytes:
    """Ask for all entries of which one end, of one direction, is this address."""
    place = _REPLY if reply else _ORIGINAL
    wanted = _nested(place, _nested(1, _address(address, source=source)))
    # CTA_FILTER_ORIG_FLAGS or _REPLY_FLAGS: what of the tuple counts.
    flags = _nested(_FILTER, _attribute(2 if reply else 1, struct.pack("=I", 1 if source else 2)))
    return _message(GET, _REQUEST | _DUMP, sequence, address, wanted + flags)


def insert_request(sequence: int, connection: TrackedConnection) -> bytes:
    """Make an entry; the kernel refuses it with EEXIST where there is one."""
    key = connection.key
    body = _tuple(_ORIGINAL, key) + _tuple(_REPLY, inverse(key)) + _figures(connection)
    return _message(NEW, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, sequence, key.source, body)


def update_request(sequence: int, connection: TrackedConnection) -> bytes:
    """Bring an entry that is there up to date."""
    body = _tuple(_ORIGINAL, connection.key) + _figures(connection)
    return _message(NEW, _REQUEST | _ACK, sequence, connection.source, body)


def delete_request(sequence: int, key: ConnectionKey) -> bytes:
    """Remove an entry; the kernel answers ENOENT where there is none."""
    return _message(DELETE, _REQUEST | _ACK, sequence, key.source, _tuple(_ORIGINAL, key))


def inverse(key: ConnectionKey) -> ConnectionKey:
    """The other direction."""
    return ConnectionKey(key.protocol, key.destination, key.destination_port, key.source, key.source_port)


def parse_entry(body: bytes) -> TrackedEntry:
    """Read an entry of a dump. Raises `WireError`."""
    try:
        return _entry(_attributes(body[_FAMILY.size :]))
    except (KeyError, IndexError, struct.error, ValueError) as error:
        raise WireError(f"an entry of connection tracking cannot be read: {type(error).__name__}") from error


def _entry(found: dict[int, bytes]) -> TrackedEntry:
    source, destination, number, ports = _read_tuple(found[_ORIGINAL])
    back_source, back_destination, _, back_ports = _read_tuple(found[_REPLY])
    translated = (back_source, back_destination) != (destination, source) or back_ports != ports[::-1]
    name = _NAMES.get(number)
    connection = None
    if name is not None and not translated and not any(found.get(_ZONE, b"")):
        key = ConnectionKey(name, source, ports[0], destination, ports[1])
        connection = _connection(key, found)
    ends, back = (source, destination), (back_source, back_destination)
    return TrackedEntry(ends, ports, back, back_ports, translated=translated, connection=connection)


def _connection(key: ConnectionKey, found: dict[int, bytes]) -> TrackedConnection | None:
    status = _be32(found[_STATUS])
    info = _attributes(found.get(_PROTOCOL_INFO, b""))
    figures: dict[str, object] = {}
    if key.protocol == "tcp":
        tcp = _attributes(info[1])
        scaled = tcp[4][0] & tcp[5][0] & _SCALED
        figures = {"state": tcp[1][0], "scales": (tcp[2][0], tcp[3][0]) if scaled else None}
    elif key.protocol == "sctp":
        sctp = _attributes(info[3])
        figures = {"state": sctp[1][0], "tags": (_be32(sctp[2]), _be32(sctp[3]))}
    timeout_s = min(max(1, _be32(found[_TIMEOUT])), MAX_TIMEOUT_S)
    told = {**key._asdict(), "timeout_s": timeout_s, **figures}
    told |= {"seen_reply": bool(status & _SEEN_REPLY), "assured": bool(status & _ASSURED)}
    try:
        return TrackedConnection.model_validate(told)
    except ValidationError:
        return None  # of an address that no VM has, such as the loopback's


def _figures(connection: TrackedConnection) -> bytes:
    status = _CONFIRMED | _SEEN_REPLY * connection.seen_reply | _ASSURED * connection.assured
    body = _attribute(_STATUS, struct.pack(">I", status)) + _attribute(
        _TIMEOUT, struct.pack(">I", connection.timeout_s)
    )
    if connection.protocol == "tcp":
        scales = connection.scales or (0, 0)
        flags = _LIBERAL | (_SCALED if connection.scales is not None else 0)
        both = bytes([flags, flags])  # and the mask of those that count
        figures = (connection.state, *scales)
        tcp = b"".join(_attribute(place, bytes([figure])) for place, figure in enumerate(figures, 1))
        body += _nested(_PROTOCOL_INFO, _nested(1, tcp + _attribute(4, both) + _attribute(5, both)))
    elif connection.protocol == "sctp" and connection.tags is not None:
        tags = (_attribute(place, struct.pack(">I", tag)) for place, tag in enumerate(connection.tags, 2))
        body += _nested(_PROTOCOL_INFO, _nested(3, _attribute(1, bytes([connection.state])) + b"".join(tags)))
    return body


def _tuple(place: int, key: ConnectionKey) -> bytes:
    addresses = _address(key.source, source=True) + _address(key.destination, source=False)
    protocol = _attribute(1, bytes([_NUMBERS[key.protocol]]))
    ports = _attribute(2, struct.pack(">H", key.source_port)) + _attribute(3, struct.pack(">H", key.destination_port))
    return _nested(place, _nested(1, addresses) + _nested(2, protocol + ports))


def _read_tuple(data: bytes) -> tuple[str, str, int, tuple[int, int]]:
    parts = _attributes(data)
    addresses, protocol = _attributes(parts[1]), _attributes(parts[2])
    first = 1 if 1 in addresses else 3
    ports = tuple(int.from_bytes(protocol.get(place, b""), "big") for place in (2, 3))
    source, destination = (str(ipaddress.ip_address(addresses[place])) for place in (first, first + 1))
    return source, destination, protocol[1][0], (ports[0], ports[1])


def _address(text: str, *, source: bool) -> bytes:
    address = ipaddress.ip_address(text)
    return _attribute((1 if address.version == 4 else 3) + (0 if source else 1), address.packed)


def _message(kind: int, flags: int, sequence: int, address: str, body: bytes) -> bytes:
    family = 2 if ipaddress.ip_address(address).version == 4 else 10
    whole = _FAMILY.pack(family, 0, 0) + body
    return _HEADER.pack(_HEADER.size + len(whole), kind, flags, sequence, 0) + whole


def _nested(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _attribute(kind: int, data: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(_padded(length) - length)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            raise ValueError("an attribute is longer than its message")
        found[kind & _TYPE] = data[at + _ATTRIBUTE.size : at + length]
        at += _padded(length)
    return found


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _be32(data: bytes) -> int:
    return int(struct.unpack(">I", data)[0])
