"""What is sent to probe a path, how it is known at the other end, and what follows from what came. Pure.

The recipient's node sends datagrams to the donor's: of several sizes, not to be fragmented, with its own address as the
source; and small ones with the VM's addresses as the source, as the guest's packets will have when they leave the
recipient without a tunnel. What stands in a datagram says which one it is, so that a translated one is known, too.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from shared.messages.network import IpAddress

LEAST: Final = {4: 576, 6: 1280}
"""The size that every path of a family carries."""
STEPS: Final = (1280, 1400, 1420, 1450, 1500, 2000, 4000, 9000)
ORDINARY: Final = 1500
"""What packets on the Internet have at most."""
HEADERS: Final = {4: 28, 6: 48}
"""Of IP and UDP."""
_PAYLOAD: Final = struct.Struct(">8s8sHB16s")
_MAGIC: Final = b"vmp-path"
PAYLOAD_BYTES: Final = _PAYLOAD.size


class Target(BaseModel):
    """Where the donor's node waits for datagrams."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: IpAddress
    port: Annotated[int, Field(ge=1024, le=65_535)]


class Question(BaseModel):
    """What the donor asks for; `nonce` tells this question's datagrams from others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    targets: tuple[Target, ...] = Field(max_length=2)


class Datagram(NamedTuple):
    """One that is to be sent, or has come: of `size` bytes with its headers; `source` is None for the sender's own."""

    version: int
    size: int
    source: str | None


def sizes(version: int, mtu: int) -> tuple[int, ...]:
    """Sizes of packets to be tried for guests of this MTU, the least first."""
    least = LEAST[version]
    return tuple(sorted({least, mtu, *(step for step in STEPS if least < step < mtu)}))


def datagrams(target: Target, mtu: int, sources: Iterable[str]) -> Iterator[Datagram]:
    """What is sent to one target."""
    version = ipaddress.ip_address(target.address).version
    for size in sizes(version, mtu):
        yield Datagram(version, size, None)
    for source in sources:
        if ipaddress.ip_address(source).version == version:
            yield Datagram(version, LEAST[version], source)


def build(question: Question, datagram: Datagram) -> bytes:
    """The payload of a datagram."""
    source = b"" if datagram.source is None else ipaddress.ip_address(datagram.source).packed
    head = _PAYLOAD.pack(_MAGIC, bytes.fromhex(question.nonce), datagram.size, len(source), source)
    return head.ljust(datagram.size - HEADERS[datagram.version], b"\0")


def read(question: Question, packet: bytes) -> Datagram | None:
    """Which of this question's datagrams an IP packet is; None: none of them."""
    version = packet[0] >> 4 if packet else 0
    headers = ((packet[0] & 15) * 4 if version == 4 else 40) + 8
    if version not in HEADERS or len(packet) < headers + _PAYLOAD.size:
        return None
    magic, nonce, size, length, source = _PAYLOAD.unpack_from(packet, headers)
    if (magic, nonce.hex()) != (_MAGIC, question.nonce) or length not in {0, 4, 16}:
        return None
    return Datagram(version, size, str(ipaddress.ip_address(source[:length])) if length else None)


def findings(came: Iterable[Datagram], targets: Iterable[Target], mtu: int, sources: Iterable[str]) -> tuple[str, ...]:
    """What follows from what came. Where nothing came that every path carries, nothing is known, and nothing said."""
    heard, found = set(came), []
    wanted = tuple(sources)
    for version in sorted({ipaddress.ip_address(target.address).version for target in targets}):
        own = {each.size for each in heard if each.version == version and each.source is None}
        if not own:
            continue
        if mtu not in own:
            # Hosts outside the VM's segment send it no more than ORDINARY bytes.
            code = "path_black_hole" if max(own) < min(mtu, ORDINARY) else "path_mtu"
            found.append(
                f"{code}: packets of more than {max(own)} bytes do not come by IPv{version}, and the VM's cards send "
                f"{mtu}; make the path wider, or use extend"
            )
        for source in wanted:
            mine = ipaddress.ip_address(source).version == version
            if mine and not any(each.source == source and each.version == version for each in heard):
                found.append(
                    f"source_filtered: packets from {source} do not come from the recipient; its network lets only its "
                    "own sources out: use extend, or have the source allowed"
                )
    return tuple(found)
