"""What is carried of the donor's connection tracking: connections of the VM, as values; and what has changed. Pure.

An entry is carried as one direction, the other is its inverse. What is rewritten on its way (NAT) is not carried: it
depends on addresses of the donor's. The mark and the zone are not either: they mean something only to the host that has
set them. Nor is the window of a TCP connection, which the kernel does not tell: the recipient's kernel is told to be
liberal about it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.messages.network import IpAddress

MAX_CONNECTIONS: Final = 65_536
"""Of one VM that are carried."""
MAX_TIMEOUT_S: Final = 432_000
"""The kernel's own for an established TCP connection: 5 days."""
TCP_CLOSING: Final = 7
"""This state of a TCP connection and later ones (time wait, close) are of one that has ended."""
Protocol = Literal["tcp", "udp", "sctp"]
TransportPort = Annotated[int, Field(ge=0, le=65_535)]
_Scale = Annotated[int, Field(ge=0, le=14)]
_Tag = Annotated[int, Field(ge=0, le=2**32 - 1)]


class ConnectionKey(NamedTuple):
    """What tells a connection from all others."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    destination_port: int


class TrackedConnection(BaseModel):
    """One connection, in the direction in which it was opened."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Protocol
    source: IpAddress
    source_port: TransportPort
    destination: IpAddress
    destination_port: TransportPort
    timeout_s: int = Field(ge=1, le=MAX_TIMEOUT_S)
    seen_reply: bool = True
    assured: bool = True
    state: int = Field(default=0, ge=0, le=15, description="Of TCP or SCTP, by the kernel's number.")
    scales: tuple[_Scale, _Scale] | None = Field(default=None, description="TCP: window scales of both directions.")
    tags: tuple[_Tag, _Tag] | None = Field(default=None, description="SCTP: verification tags of both directions.")

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        if ipaddress.ip_address(self.source).version != ipaddress.ip_address(self.destination).version:
            raise ValueError("both ends of a connection are of one family")
        return self

    @property
    def key(self) -> ConnectionKey:
        """Its name."""
        return ConnectionKey(self.protocol, self.source, self.source_port, self.destination, self.destination_port)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is expected of it."""
        return self.protocol == "tcp" and self.state >= TCP_CLOSING

    def differs(self, other: Self) -> bool:
        """Whether more has changed than the time that it has left."""
        return self.model_copy(update={"timeout_s": other.timeout_s}) != other


class TrackedFound(NamedTuple):
    """What the kernel has of some addresses. The counts are of entries that are not carried."""

    connections: tuple[TrackedConnection, ...] = ()
    translated: int = 0
    """By NAT."""
    too_many: int = 0


class Changes(NamedTuple):
    """Between two looks."""

    connections: tuple[TrackedConnection, ...]
    gone: tuple[ConnectionKey, ...]


def changes(before: Mapping[ConnectionKey, TrackedConnection], now: Iterable[TrackedConnection]) -> Changes:
    """What is new or other than it was, and what is not there any more."""
    found = {connection.key: connection for connection in now}
    changed = (each for key, each in found.items() if key not in before or before[key].differs(each))
    return Changes(tuple(changed), tuple(key for key in before if key not in found))


def of_vm(connections: Iterable[TrackedConnection], addresses: frozenset[str]) -> tuple[TrackedConnection, ...]:
    """Those of which one end is the VM: the recipient takes no other from a donor."""
    return tuple(each for each in connections if each.source in addresses or each.destination in addresses)
