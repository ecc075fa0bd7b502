"""A few TPM 2.0 commands as bytes, for a guest that passes them on to its TPM, and reading of the answers. Pure."""

from __future__ import annotations

import struct

OWNER = 0x4000_0001
SEALED = 0x8100_0001
"""The lasting handle of the sealed value."""
DEBUG_PCR = 16
_PLAIN, _WITH_SESSIONS = 0x8001, 0x8002
_CREATE_PRIMARY, _EVICT_CONTROL, _UNSEAL, _PCR_READ, _PCR_EXTEND = 0x131, 0x120, 0x15E, 0x17E, 0x182
_SHA256, _KEYED_HASH, _NO_SCHEME = 0x000B, 0x0008, 0x0010
_FIXED_TO_TPM_WITH_AUTH_WITHOUT_LOCKOUT = 1 << 1 | 1 << 4 | 1 << 6 | 1 << 10
_EMPTY_PASSWORD = struct.pack(">IIHBH", 9, 0x4000_0009, 0, 0, 0)
_HEADER = struct.Struct(">HII")


class TpmRefused(Exception):
    """The TPM answered with an error code."""


def seal(value: bytes) -> bytes:
    """Make a loaded object of this value, which only this TPM can give back. Its handle is in the answer."""
    sensitive = _sized(_sized(b"") + _sized(value))
    public = struct.pack(">HHIHHH", _KEYED_HASH, _SHA256, _FIXED_TO_TPM_WITH_AUTH_WITHOUT_LOCKOUT, 0, _NO_SCHEME, 0)
    return _command(_CREATE_PRIMARY, (OWNER,), sensitive + _sized(public) + _sized(b"") + struct.pack(">I", 0))


def keep(loaded: int) -> bytes:
    """Make the loaded object a lasting one, under the handle SEALED."""
    return _command(_EVICT_CONTROL, (OWNER, loaded), struct.pack(">I", SEALED))


def unseal(handle: int = SEALED) -> bytes:
    """Ask for the sealed value."""
    return _command(_UNSEAL, (handle,), b"")


def extend_pcr(digest: bytes) -> bytes:
    """Extend a register that no firmware uses by a SHA-256 digest."""
    return _command(_PCR_EXTEND, (DEBUG_PCR,), struct.pack(">IH", 1, _SHA256) + digest)


def read_pcr() -> bytes:
    """Ask for that register."""
    selection = struct.pack("<I", 1 << DEBUG_PCR)[:3]
    body = struct.pack(">IHB", 1, _SHA256, len(selection)) + selection
    return _HEADER.pack(_PLAIN, _HEADER.size + len(body), _PCR_READ) + body


def answer(said: bytes) -> bytes:
    """What follows the header of an answer. Raises `TpmRefused`."""
    _, _, code = _HEADER.unpack_from(said)
    if code:
        raise TpmRefused(f"code {code:#x}")
    return said[_HEADER.size :]


def handle_of(said: bytes) -> int:
    """The handle in the answer to `seal`. Raises `TpmRefused`."""
    return int.from_bytes(answer(said)[:4])


def value_of(said: bytes) -> bytes:
    """The value in the answer to `unseal`. Raises `TpmRefused`."""
    body = answer(said)[4:]
    return body[2 : 2 + int.from_bytes(body[:2])]


def pcr_of(said: bytes) -> bytes:
    """The register in the answer to `read_pcr`. Raises `TpmRefused`."""
    return answer(said)[-32:]


def _sized(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _command(code: int, handles: tuple[int, ...], parameters: bytes) -> bytes:
    body = struct.pack(f">{len(handles)}I", *handles) + _EMPTY_PASSWORD + parameters
    return _HEADER.pack(_WITH_SESSIONS, _HEADER.size + len(body), code) + body
