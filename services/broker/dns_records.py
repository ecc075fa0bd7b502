"""What DNS says of a VM: the label, the mark with its epoch, and the addresses. Pure.

Beside the addresses of `LABEL.ZONE` there is a TXT record at `_vmport.LABEL.ZONE`, the mark:
`epoch=3 provider=beta vm=UUID`. It says by which epoch the addresses are true, and whose the label is; no label is
written without looking at it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from uuid import UUID

from shared.parties import NAME_PATTERN

MARK = "_vmport"
"""The label below a VM's own that has the mark."""
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_UUID_LIKE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MARK = re.compile(rf"epoch=([0-9]{{1,18}}) provider=({NAME_PATTERN}) vm=({_UUID_LIKE.pattern})")


@dataclass(frozen=True, slots=True)
class DnsMark:
    """Who serves a VM, by which epoch."""

    vm_uuid: UUID
    epoch: int
    provider: str

    def __str__(self) -> str:
        """The text of the TXT record."""
        return f"epoch={self.epoch} provider={self.provider} vm={self.vm_uuid}"


@dataclass(frozen=True, slots=True)
class DnsRecords:
    """All that is written about a VM."""

    mark: DnsMark
    addresses: tuple[str, ...] = ()

    @property
    def ipv4(self) -> tuple[str, ...]:
        """For A records."""
        return tuple(each for each in self.addresses if ipaddress.ip_address(each).version == 4)

    @property
    def ipv6(self) -> tuple[str, ...]:
        """For AAAA records."""
        return tuple(each for each in self.addresses if ipaddress.ip_address(each).version == 6)


def parse_mark(text: str) -> DnsMark | None:
    """The mark in a TXT record; None for any other text."""
    match = _MARK.fullmatch(text)
    return DnsMark(UUID(match[3]), int(match[1]), match[2]) if match else None


def label_of(vm_name: str, vm_uuid: UUID) -> str:
    """A VM's name, if it can be a host's name in DNS; else its id. Nobody may be named like the id of another VM."""
    name = vm_name.lower()
    if _HOST_LABEL.fullmatch(name) and not _UUID_LIKE.fullmatch(name):
        return name
    return str(vm_uuid)
