"""Bodies of the frames that carry structure: HELLO, OPEN, RESET, ABORT. Pure; integers are unsigned and big-endian,
texts are UTF-8.

HELLO  u64 epoch of the other endpoint as known here (0: not known yet) · u32 receive window in bytes
       · u32 largest payload accepted in bytes · u8 role (1 initiator, 2 acceptor) · u16 length, lane name
OPEN   u8 length, kind (one of StreamKind) · u16 length, label
RESET  the reason
ABORT  the reason

The receive window counts, for every DATA frame that the application has not consumed, its payload and 512 bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from shared.page_stream.errors import BadBodyError

MAX_NAME_BYTES: Final = 255
MAX_LABEL_BYTES: Final = 255
MAX_REASON_BYTES: Final = 1024

_HELLO: Final = struct.Struct(">QIIBH")


class LaneRole(IntEnum):
    """Which stream ids an endpoint opens, odd or even; the two ends of a lane have different roles."""

    INITIATOR = 1  # the donor's node agent
    ACCEPTOR = 2  # the recipient's

    @property
    def peer(self) -> LaneRole:
        """The role of the other end."""
        return LaneRole.ACCEPTOR if self is LaneRole.INITIATOR else LaneRole.INITIATOR


class StreamKind(StrEnum):
    """What a stream inside a lane carries."""

    CONTROL = "control"  # libvirt's RPC
    MEMORY = "memory"  # QEMU's migration stream
    DISK = "disk"  # NBD
    NETWORK = "network"  # a card's Ethernet frames


_KINDS: Final = {kind.value: kind for kind in StreamKind}


@dataclass(frozen=True, slots=True)
class Hello:
    """The sender's role and limits, and the epoch of the endpoint that it believes to talk to (0: unknown)."""

    peer_epoch: int
    window_bytes: int
    max_payload_bytes: int
    role: LaneRole
    lane: str


@dataclass(frozen=True, slots=True)
class Open:
    """A new stream's kind and its label (free text that the opener chooses, such as a disk's target)."""

    kind: StreamKind
    label: str


def encode_hello(hello: Hello) -> bytes:
    """Body of a HELLO. Raises BadBodyError when the lane name is too long."""
    name = _encode_text("HELLO", hello.lane, MAX_NAME_BYTES)
    head = _HELLO.pack(hello.peer_epoch, hello.window_bytes, hello.max_payload_bytes, hello.role, len(name))
    return head + name


def decode_hello(body: memoryview | bytes) -> Hello:
    """Raises BadBodyError."""
    if len(body) < _HELLO.size:
        raise BadBodyError(frame="HELLO", finding=f"{len(body)} bytes, at least {_HELLO.size} expected")
    peer_epoch, window, max_payload, role, name_length = _HELLO.unpack_from(body)
    if role not in (LaneRole.INITIATOR, LaneRole.ACCEPTOR):
        raise BadBodyError(frame="HELLO", finding=f"role {role} is unknown")
    if len(body) != _HELLO.size + name_length:
        raise BadBodyError(frame="HELLO", finding="length of the lane name does not fit the body")
    return Hello(
        peer_epoch=peer_epoch,
        window_bytes=window,
        max_payload_bytes=max_payload,
        role=LaneRole(role),
        lane=_decode_text("HELLO", body[_HELLO.size :], MAX_NAME_BYTES),
    )


def encode_open(opening: Open) -> bytes:
    """Body of an OPEN. Raises BadBodyError when the label is too long."""
    kind = opening.kind.value.encode()
    label = _encode_text("OPEN", opening.label, MAX_LABEL_BYTES)
    return b"".join((len(kind).to_bytes(1), kind, len(label).to_bytes(2), label))


def decode_open(body: memoryview | bytes) -> Open:
    """Raises BadBodyError."""
    data = bytes(body)
    kind_end = 1 + (data[0] if data else 0)
    label_start = kind_end + 2
    if len(data) < label_start or len(data) != label_start + int.from_bytes(data[kind_end:label_start]):
        raise BadBodyError(frame="OPEN", finding="lengths of kind and label do not fit the body")
    name = _decode_text("OPEN", data[1:kind_end], MAX_LABEL_BYTES)
    kind = _KINDS.get(name)
    if kind is None:
        raise BadBodyError(frame="OPEN", finding=f"stream kind {name!r} is unknown")
    return Open(kind=kind, label=_decode_text("OPEN", data[label_start:], MAX_LABEL_BYTES))


def encode_reason(reason: str) -> bytes:
    """Body of a RESET or an ABORT: the reason, cut to MAX_REASON_BYTES between two characters."""
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()


def decode_reason(frame: str, body: memoryview | bytes) -> str:
    """Raises BadBodyError."""
    return _decode_text(frame, body, MAX_REASON_BYTES)


def _encode_text(frame: str, text: str, limit_bytes: int) -> bytes:
    data = text.encode()
    if len(data) > limit_bytes:
        raise BadBodyError(frame=frame, finding=f"text of {len(data)} bytes is over the limit of {limit_bytes}")
    return data


def _decode_text(frame: str, body: memoryview | bytes, limit_bytes: int) -> str:
    if len(body) > limit_bytes:
        raise BadBodyError(frame=frame, finding=f"text of {len(body)} bytes is over the limit of {limit_bytes}")
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise BadBodyError(frame=frame, finding="text is not UTF-8") from error
