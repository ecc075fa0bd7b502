"""TLS 1.3 inside a lane, end to end between two node agents, mutual. A sans-I/O TLS object; owns no key file.

The donor's agent (INITIATOR) is the TLS client. Each end must show exactly the certificate that the service change
agreement pins for it, and that certificate must be valid and issued by the authority pinned beside it. There is no
other mode: a lane whose handshake fails carries no data.

A sealed unit is the TLS records of

    u8 frame type · u32 stream id · the frame's body

and ends at a record's border, so that one frame opens by itself, given all before it. TLS 1.3's records of up to
16 KiB cost 22 bytes each.

Bound: AES-GCM keys are good for about 2**24 full records, 380 GB, per lane and direction (RFC 8446, 5.5); a lane that
would carry more fails instead of using its keys beyond that bound.
"""

from __future__ import annotations

import hashlib
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.node_agent.lanes.core.seal import SealError
from shared.page_stream.bodies import LaneRole
from shared.page_stream.frame import FrameType

RECORD_BYTES: Final = 16 * 1024
RECORD_COST_BYTES: Final = 5 + 1 + 16  # header, inner content type, tag
MAX_HANDSHAKE_BYTES: Final = 64 * 1024
MAX_RECORDS: Final = 23_000_000
_HEAD: Final = struct.Struct(">BI")


@dataclass(frozen=True, slots=True)
class TlsPeer:
    """Who must be at the other end: exactly this certificate, issued by this authority. PEM."""

    certificate: str
    authority: str

    @property
    def sha256(self) -> bytes:
        """SHA-256 of the certificate's DER. Raises ValueError for what is no certificate."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.strip())).digest()


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """This end's certificate and private key, as files."""

    certificate_file: Path
    key_file: Path = field(repr=False)


class TlsSeal:
    """One lane's TLS at one end; a LaneSeal."""

    def __init__(self, context: ssl.SSLContext, *, role: LaneRole, peer_sha256: bytes) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=role is LaneRole.ACCEPTOR)
        self._role = role
        self._peer_sha256 = peer_sha256
        self._handshake_bytes = 0
        self._sealed_records = 0
        self._established = False

    @property
    def established(self) -> bool:
        """Whether the handshake is done and the other end's certificate is the pinned one."""
        return self._established

    def begin(self) -> bytes:
        """The ClientHello; empty at the acceptor."""
        return self._shake() if self._role is LaneRole.INITIATOR else b""

    def receive_handshake(self, data: bytes | memoryview) -> bytes:
        """Take one handshake message; the answer. Raises SealError."""
        if self._established:
            raise SealError("a handshake message came after the handshake")
        self._handshake_bytes += len(data)
        if self._handshake_bytes > MAX_HANDSHAKE_BYTES:
            raise SealError(f"the handshake has more than {MAX_HANDSHAKE_BYTES} bytes")
        self._incoming.write(data)
        return self._shake()

    def sealed_bytes(self, body_bytes: int) -> int:
        """Length of a body once sealed."""
        return _sealed_bytes(body_bytes + _HEAD.size)

    def seal(self, frame_type: FrameType, stream_id: int, body: bytes | memoryview) -> bytes:
        """The unit's TLS records. Raises SealError when the keys have reached their bound."""
        plain = b"".join((_HEAD.pack(frame_type, stream_id), body))
        self._sealed_records += -(-len(plain) // RECORD_BYTES)
        if self._sealed_records > MAX_RECORDS:
            raise SealError("more was sent than the keys of one TLS connection may protect (RFC 8446, 5.5)")
        try:
            self._tls.write(plain)
        except ssl.SSLError as error:
            raise SealError(f"TLS cannot seal: {_reason(error)}") from error
        return self._outgoing.read()

    def open(self, frame_type: FrameType, stream_id: int, sealed: bytes | memoryview) -> memoryview:
        """The unit's body. Raises SealError when it was changed, on the way or by this end's state."""
        self._incoming.write(sealed)
        plain = memoryview(bytearray(len(sealed)))
        have = 0
        try:
            while self._incoming.pending or self._tls.pending():
                taken = int(self._tls.read(len(plain) - have, plain[have:]))
                if not taken:
                    raise SealError("the other end closed TLS inside the lane")
                have += taken
        except ssl.SSLError as error:
            raise SealError(f"what came is not what the other end sealed: {_reason(error)}") from error
        if have < _HEAD.size or _sealed_bytes(have) != len(sealed):
            raise SealError("a frame's sealed body does not end at a record's border")
        if _HEAD.unpack_from(plain) != (frame_type, stream_id):
            raise SealError("a frame's type or stream was changed on the way")
        return plain[_HEAD.size : have].toreadonly()

    def _shake(self) -> bytes:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        except ssl.SSLError as error:
            raise SealError(f"the other node agent could not be proven: {_reason(error)}") from error
        certificate = self._tls.getpeercert(binary_form=True)
        if certificate is None or hashlib.sha256(certificate).digest() != self._peer_sha256:
            raise SealError("the other node agent's certificate is not the one that the agreement pins")
        self._established = True
        return self._outgoing.read()


class LaneTls:
    """Makes the seals of one port's lanes. Reads the identity's files once; raises SealError if they cannot be used."""

    def __init__(self, identity: TlsIdentity, peer: TlsPeer, role: LaneRole) -> None:
        self._role = role
        client = role is LaneRole.INITIATOR
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # stricter than a name: the certificate itself is pinned
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET
        if not client:
            context.num_tickets = 0  # a session ticket would be a record that belongs to no frame
        try:
            self._peer_sha256 = peer.sha256
            context.load_verify_locations(cadata=peer.authority)
            context.load_cert_chain(identity.certificate_file, identity.key_file)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise SealError(f"the lanes' certificates cannot be used: {error}") from error
        self._context = context

    def seal(self) -> TlsSeal:
        """A new lane's seal."""
        return TlsSeal(self._context, role=self._role, peer_sha256=self._peer_sha256)


def _sealed_bytes(plain_bytes: int) -> int:
    return plain_bytes + RECORD_COST_BYTES * -(-plain_bytes // RECORD_BYTES)


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)
