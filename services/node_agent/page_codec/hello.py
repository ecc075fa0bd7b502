"""The first payload of a page-aware stream: what the two ends must agree on. Also names the techniques. Pure.

    u8   method, METHOD_HELLO
    u8   version, VERSION
    u32  little-endian: contents per origin that the recipient holds (see `contents`)
    32   the port's key for content ids, drawn by the donor's agent

It travels inside the lane's TLS. Every stream of a port begins with the same hello; a recipient refuses another one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.node_agent.page_codec.batch import METHOD_HELLO
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import DEFAULT_KEEP, KEY_BYTES

VERSION: Final = 3
MAX_KEEP: Final = 1 << 24

_HELLO: Final = struct.Struct(f"<BBI{KEY_BYTES}s")


class Technique(StrEnum):
    """What can be switched off, to see what it is worth."""

    DEDUP = "dedup"
    DELTA = "delta"
    COMPRESS = "compress"
    ADAPT = "adapt"
    HOT = "hot"
    BASE = "base"
    CACHE = "kept"  # the value stands in settings files
    EARLY = "early"


ALL: Final = frozenset(Technique)
STORING: Final = frozenset({Technique.DEDUP, Technique.DELTA, Technique.BASE, Technique.CACHE, Technique.EARLY})
"""Those for which contents of the guest are stored at either node, or compared with what is stored there."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the donor says first."""

    key: bytes
    keep: int = DEFAULT_KEEP

    def encode(self) -> bytes:
        """The payload."""
        return _HELLO.pack(METHOD_HELLO, VERSION, self.keep, self.key)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Hello:
        """Raises CodecError for another version, or more to hold than a recipient ever does."""
        if len(payload) != _HELLO.size:
            raise CodecError(finding=f"a hello of {len(payload)} bytes, {_HELLO.size} expected")
        method, version, keep, key = _HELLO.unpack(payload)
        if method != METHOD_HELLO or version != VERSION:
            raise CodecError(finding=f"page codec version {version} is unknown; install the same release on both hosts")
        if not 0 < keep <= MAX_KEEP:
            raise CodecError(finding=f"the donor wants {keep} contents held, 1 to {MAX_KEEP} are allowed")
        return cls(key=key, keep=keep)
