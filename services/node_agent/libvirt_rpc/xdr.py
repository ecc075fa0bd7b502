"""XDR (RFC 4506), the parts that libvirt's RPC uses: bounded reading and writing. Pure; knows no libvirt procedure."""

from __future__ import annotations

import struct

from shared.errors import VmportError

MAX_OPAQUE_BYTES = 4 * 1024 * 1024


class XdrError(VmportError):
    """A value that is cut short, too long or not legal XDR."""

    code = "xdr_unreadable"


class XdrReader:
    """Reads one value after the other from a payload. Methods raise `XdrError` instead of reading past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise XdrError(f"{size} bytes are wanted at {self._at}, {len(self._data) - self._at} are there")
        chunk = self._data[self._at : end]
        self._at = end
        return chunk

    def uint32(self) -> int:
        """32-bit unsigned."""
        return int.from_bytes(self._take(4), "big")

    def int32(self) -> int:
        """32-bit signed."""
        return int.from_bytes(self._take(4), "big", signed=True)

    def hyper(self) -> int:
        """64-bit signed."""
        return int.from_bytes(self._take(8), "big", signed=True)

    def uhyper(self) -> int:
        """64-bit unsigned."""
        return int.from_bytes(self._take(8), "big")

    def double(self) -> float:
        """IEEE 754 double."""
        return float(struct.unpack(">d", self._take(8))[0])

    def boolean(self) -> bool:
        """0 or 1 and nothing else."""
        value = self.uint32()
        if value > 1:
            raise XdrError(f"{value} is no boolean")
        return value == 1

    def fixed(self, size: int) -> bytes:
        """Opaque of known size, with its padding."""
        chunk = self._take(size)
        # Padding to four bytes must be zero (RFC 4506, 4.9), so that a value has one encoding only.
        if any(self._take(-size % 4)):
            raise XdrError("padding is not zero")
        return chunk

    def opaque(self, limit: int = MAX_OPAQUE_BYTES) -> bytes:
        """Opaque with its length in front."""
        size = self.uint32()
        if size > limit:
            raise XdrError(f"{size} bytes announced, at most {limit} are read")
        return self.fixed(size)

    def string(self, limit: int = MAX_OPAQUE_BYTES) -> str:
        """UTF-8 string without NUL."""
        raw = self.opaque(limit)
        if b"\0" in raw:
            raise XdrError("a string has a NUL inside")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise XdrError("a string is not UTF-8") from error

    def optional_string(self, limit: int = MAX_OPAQUE_BYTES) -> str | None:
        """libvirt's remote_string: a pointer to a string."""
        return self.string(limit) if self.boolean() else None

    def end(self) -> None:
        """Raise `XdrError` unless everything was read."""
        if self._at != len(self._data):
            raise XdrError(f"{len(self._data) - self._at} bytes follow the last value")


class XdrWriter:
    """Collects values; `bytes(writer)` is the payload."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def __bytes__(self) -> bytes:
        return bytes(self._parts)

    def uint32(self, value: int) -> XdrWriter:
        """32-bit unsigned."""
        self._parts += value.to_bytes(4, "big")
        return self

    def int32(self, value: int) -> XdrWriter:
        """32-bit signed."""
        self._parts += value.to_bytes(4, "big", signed=True)
        return self

    def hyper(self, value: int) -> XdrWriter:
        """64-bit signed."""
        self._parts += value.to_bytes(8, "big", signed=True)
        return self

    def uhyper(self, value: int) -> XdrWriter:
        """64-bit unsigned."""
        self._parts += value.to_bytes(8, "big")
        return self

    def double(self, value: float) -> XdrWriter:
        """IEEE 754 double."""
        self._parts += struct.pack(">d", value)
        return self

    def boolean(self, *, value: bool) -> XdrWriter:
        """0 or 1."""
        return self.uint32(int(value))

    def fixed(self, value: bytes) -> XdrWriter:
        """Opaque of known size."""
        self._parts += value + bytes(-len(value) % 4)
        return self

    def opaque(self, value: bytes) -> XdrWriter:
        """Opaque with its length in front."""
        return self.uint32(len(value)).fixed(value)

    def string(self, value: str) -> XdrWriter:
        """UTF-8 string."""
        return self.opaque(value.encode())

    def optional_string(self, value: str | None) -> XdrWriter:
        """libvirt's remote_string."""
        self.boolean(value=value is not None)
        return self if value is None else self.string(value)
