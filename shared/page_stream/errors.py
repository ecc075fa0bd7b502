"""Why bytes that claim to be a page-stream frame are not one. One class per finding; the facts are attributes."""

from __future__ import annotations


class FrameError(Exception):
    """A page-stream frame is not valid."""


class ShortFrameError(FrameError):
    """Fewer bytes than the header, or than the payload length that the header declares."""

    def __init__(self, *, have_bytes: int, need_bytes: int) -> None:
        super().__init__(have_bytes, need_bytes)
        self.have_bytes = have_bytes
        self.need_bytes = need_bytes

    def __str__(self) -> str:
        return f"page-stream frame is cut short: {self.have_bytes} bytes, {self.need_bytes} needed"


class TrailingBytesError(FrameError):
    """More bytes than header and payload account for; a frame is exactly one message of the route."""

    def __init__(self, *, have_bytes: int, need_bytes: int) -> None:
        super().__init__(have_bytes, need_bytes)
        self.have_bytes = have_bytes
        self.need_bytes = need_bytes

    def __str__(self) -> str:
        return f"page-stream frame has {self.have_bytes - self.need_bytes} bytes after its payload of declared length"


class BadMagicError(FrameError):
    """The bytes do not start with the page stream's magic."""

    def __init__(self, *, magic: bytes) -> None:
        super().__init__(magic)
        self.magic = magic

    def __str__(self) -> str:
        return f"not a page-stream frame: it starts with {self.magic!r}"


class UnknownVersionError(FrameError):
    """A version of the wire format that this release does not speak."""

    def __init__(self, *, version: int) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return f"page-stream version {self.version} is unknown here; install the same release on both hosts"


class UnknownTypeError(FrameError):
    """A frame type or a flag that the version does not define."""

    def __init__(self, *, what: str, value: int) -> None:
        super().__init__(what, value)
        self.what = what
        self.value = value

    def __str__(self) -> str:
        return f"page-stream frame has unknown {self.what} {self.value:#x}"


class OversizedFrameError(FrameError):
    """A payload longer than the wire format allows."""

    def __init__(self, *, payload_bytes: int, limit_bytes: int) -> None:
        super().__init__(payload_bytes, limit_bytes)
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"page-stream payload of {self.payload_bytes} bytes is over the limit of {self.limit_bytes}"


class BadBodyError(FrameError):
    """The payload of a HELLO, OPEN, RESET or ABORT does not parse, or a value in it is out of range."""

    def __init__(self, *, frame: str, finding: str) -> None:
        super().__init__(frame, finding)
        self.frame = frame
        self.finding = finding

    def __str__(self) -> str:
        return f"body of page-stream frame {self.frame} is not valid: {self.finding}"
