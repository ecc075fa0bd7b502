"""Errors of bytes that are no valid page-stream frame. One class per reason; the facts are attributes."""

from __future__ import annotations

from shared.errors import VmportError


class FrameError(VmportError):
    """A page-stream frame is not valid."""

    code = "bad_frame"


class ShortFrameError(FrameError):
    """Fewer bytes than the header, or than the payload length that the header declares."""

    def __init__(self, *, have_bytes: int, need_bytes: int) -> None:
        self.have_bytes = have_bytes
        self.need_bytes = need_bytes
        super().__init__(f"page-stream frame is cut short: {have_bytes} bytes, {need_bytes} needed")


class TrailingBytesError(FrameError):
    """More bytes than header and payload; a message of the route is exactly one frame."""

    def __init__(self, *, have_bytes: int, need_bytes: int) -> None:
        self.have_bytes = have_bytes
        self.need_bytes = need_bytes
        super().__init__(f"page-stream frame has {have_bytes - need_bytes} bytes after its payload of declared length")


class BadMagicError(FrameError):
    """The bytes do not start with the page stream's magic."""

    def __init__(self, *, magic: bytes) -> None:
        self.magic = magic
        super().__init__(f"not a page-stream frame: it starts with {magic!r}")


class UnknownVersionError(FrameError):
    """A version of the wire format that this release does not know."""

    def __init__(self, *, version: int) -> None:
        self.version = version
        super().__init__(f"page-stream version {version} is unknown here; install the same release on both hosts")


class UnknownTypeError(FrameError):
    """A frame type or a flag that the version does not define."""

    def __init__(self, *, what: str, value: int) -> None:
        self.what = what
        self.value = value
        super().__init__(f"page-stream frame has unknown {what} {value:#x}")


class OversizedFrameError(FrameError):
    """A payload longer than the wire format allows."""

    def __init__(self, *, payload_bytes: int, limit_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self.limit_bytes = limit_bytes
        super().__init__(f"page-stream payload of {payload_bytes} bytes is over the limit of {limit_bytes}")


class BadBodyError(FrameError):
    """The payload of a HELLO, OPEN, RESET or ABORT does not parse, or a value in it is out of range."""

    def __init__(self, *, frame: str, finding: str) -> None:
        self.frame = frame
        self.finding = finding
        super().__init__(f"body of page-stream frame {frame} is not valid: {finding}")
