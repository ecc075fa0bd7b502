"""Who answers on a VLAN: ARP requests with a chosen tag, sent on a port that carries all VLANs.

Framing is pure. The kernel takes the tag out of a frame before a packet socket reads it, and tells it beside the frame.
"""

import secrets
import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from deploy.labkit import processes

_ETH_P_ALL, _ETH_P_ARP, _ETH_P_8021Q = 0x0003, 0x0806, 0x8100
_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_REQUEST, _REPLY = 1, 2
# Of <linux/if_packet.h>; Python does not name them.
_SOL_PACKET, _PACKET_AUXDATA, _VLAN_VALID = 263, 8, 1 << 4
_AUXDATA = struct.Struct("@IIIHHHH")
_TAG_BITS = 0xFFF
_ASK_EVERY_S = 0.2


@dataclass(frozen=True)
class Answer:
    """One ARP reply as it came out of the port."""

    mac: str
    vlan: int | None


def request(asker: bytes, address: str, vlan: int | None) -> bytes:
    """A frame that asks for an IPv4 address, from a MAC address of 6 bytes; with a tag, or (None) without."""
    tag = b"" if vlan is None else struct.pack("!HH", _ETH_P_8021Q, vlan)
    nobody = bytes(4)  # a probe: it claims no address
    body = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, asker, nobody, bytes(6), IPv4Address(address).packed)
    return _BROADCAST + asker + tag + struct.pack("!H", _ETH_P_ARP) + body


def reply(frame: bytes, vlan: int | None, asker: bytes, address: str) -> Answer | None:
    """The answer to `asker` about the address in a frame that came with this tag, or None if it is none."""
    if frame[:6] != asker or frame[12:14] != struct.pack("!H", _ETH_P_ARP) or len(frame) < 14 + _ARP.size:
        return None
    _, _, _, _, kind, mac, sender, _, _ = _ARP.unpack_from(frame, 14)
    if kind != _REPLY or sender != IPv4Address(address).packed:
        return None
    return Answer(mac.hex(":"), vlan)


def tag_beside(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """The VLAN that the kernel tells beside a frame; None: the frame had no tag."""
    for level, kind, data in ancillary:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            status, _, _, _, _, control, _ = _AUXDATA.unpack_from(data)
            return control & _TAG_BITS if status & _VLAN_VALID else None
    return None


def ask(namespace: Path, device: str, address: str, vlan: int | None, *, within_s: float) -> Answer | None:
    """The first answer about the address on this VLAN, or None if nobody answers in time. Raises `OSError`."""
    asker = b"\x02" + secrets.token_bytes(5)
    deadline = time.monotonic() + within_s
    with processes.socket_in(namespace, socket.AF_PACKET, socket.SOCK_RAW) as port:
        port.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        port.bind((device, _ETH_P_ALL))
        asked_at = 0.0
        while (now := time.monotonic()) < deadline:
            if now - asked_at >= _ASK_EVERY_S:
                asked_at = now
                port.send(request(asker, address, vlan))
            port.settimeout(_ASK_EVERY_S)
            try:
                frame, ancillary, _, _ = port.recvmsg(2048, socket.CMSG_SPACE(_AUXDATA.size))
            except TimeoutError:
                continue
            if (found := reply(frame, tag_beside(ancillary), asker, address)) is not None:
                return found
    return None
