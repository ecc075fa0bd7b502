"""This node's key and certificate for the lanes: given by settings, or made at the first start and kept.

Owns files only; `tls` uses them. A certificate made here is issued by an authority made for it alone; a provider with
an authority of its own issues one and names the three files in the settings.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.node_agent.lanes.core.seal import SealError
from services.node_agent.lanes.tls import LaneTls, TlsIdentity, TlsPeer
from services.node_agent.settings import DirectSection, TlsSection
from services.node_agent.state.files import write_atomically
from shared.certificates import expires_at, issue, make_authority
from shared.messages.lanes import LaneEndpoint
from shared.messages.porting import ServiceChangeAgreement
from shared.page_stream.bodies import LaneRole

RENEW_BEFORE = timedelta(days=30)
_MAKING = ("node.crt", "node.key", "authority.crt")


@dataclass(frozen=True, slots=True)
class LaneKeys:
    """This node's identity on the lanes, and the authorities of other providers that it knows."""

    identity: TlsIdentity
    endpoint: LaneEndpoint
    known_authorities: Mapping[str, str]

    def tls(self, agreement: ServiceChangeAgreement, role: LaneRole) -> LaneTls:
        """TLS towards the other node agent of an agreement. Raises SealError where the agreement names wrong ones."""
        if role is LaneRole.INITIATOR:
            mine, peer, provider = agreement.donor_lane, agreement.recipient_lane, agreement.recipient
        else:
            mine, peer, provider = agreement.recipient_lane, agreement.donor_lane, agreement.donor
        if mine.certificate != self.endpoint.certificate:
            raise SealError("the agreement pins another certificate for this node than the one it has now")
        known = self.known_authorities.get(provider)
        if known is not None and known.strip() != peer.authority.strip():
            raise SealError(f"the agreement pins another authority for provider {provider} than the one known here")
        return LaneTls(self.identity, TlsPeer(peer.certificate, peer.authority), role)


async def load_lane_keys(tls: TlsSection, direct: DirectSection, *, name: str, state_dir: Path) -> LaneKeys:
    """Read, and at the first start make. Raises OSError, or ValueError for files that hold no certificate."""
    return await asyncio.to_thread(_load, tls, direct, name, state_dir / "lane")


def _load(tls: TlsSection, direct: DirectSection, name: str, directory: Path) -> LaneKeys:
    if tls.certificate_file is None or tls.key_file is None or tls.authority_file is None:
        certificate_file, key_file, authority_file = (directory / file for file in _MAKING)
        _make_where_missing(certificate_file, key_file, authority_file, name)
    else:
        certificate_file, key_file, authority_file = tls.certificate_file, tls.key_file, tls.authority_file
    certificate = certificate_file.read_text("ascii")
    if (ends := expires_at(certificate)) <= datetime.now(UTC):
        raise ValueError(f"certificate {certificate_file} expired {ends.isoformat()}")
    return LaneKeys(
        TlsIdentity(certificate_file, key_file),
        LaneEndpoint(certificate=certificate, authority=authority_file.read_text("ascii"), direct=direct.advertise),
        {provider: path.read_text("ascii") for provider, path in tls.known_authorities.items()},
    )


def _make_where_missing(certificate_file: Path, key_file: Path, authority_file: Path, name: str) -> None:
    """The authority's key is not kept: it signs this one certificate."""
    now = datetime.now(UTC)
    files = (certificate_file, key_file, authority_file)
    if all(file.exists() for file in files) and expires_at(certificate_file.read_text("ascii")) > now + RENEW_BEFORE:
        return
    certificate_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = make_authority(f"{name} (made by itself)", now=now)
    pair = issue(name, authority, now=now)
    # The certificate last: while it is missing, all three are made again.
    certificate_file.unlink(missing_ok=True)
    write_atomically(key_file, pair.key.encode())  # mkstemp's mode: only its owner reads it
    write_atomically(authority_file, authority.certificate.encode())
    write_atomically(certificate_file, pair.certificate.encode())
    os.chmod(key_file, 0o600)
