"""Certificates of two providers' node agents, for tests of secure lanes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.node_agent.lanes.keys import LaneKeys
from services.node_agent.lanes.tls import LaneTls, TlsIdentity, TlsPeer
from shared.certificates import issue, make_authority
from shared.messages.lanes import LaneEndpoint
from shared.page_stream.bodies import LaneRole

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Credentials:
    """A node agent's own files, and what others pin of it."""

    identity: TlsIdentity
    pinned: TlsPeer

    @property
    def keys(self) -> LaneKeys:
        """The same, as a node agent that is reached by the relay only has them."""
        endpoint = LaneEndpoint(certificate=self.pinned.certificate, authority=self.pinned.authority)
        return LaneKeys(self.identity, endpoint, {})


def make_credentials(directory: Path, name: str) -> Credentials:
    """A node agent with a provider of its own."""
    authority = make_authority(f"provider of {name}", now=NOW)
    pair = issue(name, authority, now=NOW)
    certificate_file, key_file = directory / f"{name}.crt", directory / f"{name}.key"
    certificate_file.write_text(pair.certificate)
    key_file.write_text(pair.key)
    return Credentials(
        TlsIdentity(certificate_file, key_file), TlsPeer(certificate=pair.certificate, authority=authority.certificate)
    )


@dataclass(frozen=True)
class Pair:
    """Two node agents that pin each other."""

    donor: Credentials
    recipient: Credentials

    def tls(self, role: LaneRole) -> LaneTls:
        """One end's TLS."""
        mine, peer = (self.donor, self.recipient) if role is LaneRole.INITIATOR else (self.recipient, self.donor)
        return LaneTls(mine.identity, peer.pinned, role)


def make_pair(directory: Path) -> Pair:
    """Both ends of a lane."""
    return Pair(make_credentials(directory, "node.alpha.alpha-1"), make_credentials(directory, "node.beta.beta-1"))
