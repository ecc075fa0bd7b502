"""Pairs of versions between which a guest is known not to move, or not whole. A table of data, and pure.

Only what somebody has shown goes in: each row names its source. General rules about versions (the recipient's are not
older than the donor's) are `platform`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared.messages.base import Refusal
from shared.messages.vm import HypervisorVersions, VmDescription

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Versions:
    """From a version on, and before another one; None: no bound."""

    since: Version | None = None
    before: Version | None = None

    def __contains__(self, version: Version) -> bool:
        return (self.since is None or version >= self.since) and (self.before is None or version < self.before)


ANY = Versions()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBad:
    """One row: which versions at which side, for which guests, and what happens."""

    code: str
    rule: str
    source: str
    donor_qemu: Versions = ANY
    donor_libvirt: Versions = ANY
    recipient_qemu: Versions = ANY
    recipient_libvirt: Versions = ANY
    architecture: str | None = None
    domain_type: str | None = None
    least_vcpus: int = 1

    def meets(self, vm: VmDescription, donor: HypervisorVersions, recipient: HypervisorVersions) -> bool:
        """Whether this VM between these hosts is such a case."""
        return (
            donor.qemu in self.donor_qemu
            and donor.libvirt in self.donor_libvirt
            and recipient.qemu in self.recipient_qemu
            and recipient.libvirt in self.recipient_libvirt
            and self.architecture in {None, vm.architecture}
            and self.domain_type in {None, vm.domain_type}
            and vm.vcpus >= self.least_vcpus
        )


_SAFE_EMULATION = (10, 0, 0)
_EMULATION_RULE = (
    "Under software emulation both sides run QEMU 10.0.0 or newer: older ones corrupt guests in live migration."
)
_EMULATION_SOURCE = "measured: QEMU 7.2 ended 11 of 12 migrations of a writing guest in a panic, 10.0.2 none of 8"

TABLE: tuple[KnownBad, ...] = (
    KnownBad(
        code="qemu_unsafe_emulation",
        rule=_EMULATION_RULE,
        source=_EMULATION_SOURCE,
        domain_type="qemu",
        recipient_qemu=Versions(before=_SAFE_EMULATION),
    ),
    KnownBad(
        code="qemu_unsafe_emulation",
        rule=_EMULATION_RULE,
        source=_EMULATION_SOURCE,
        domain_type="qemu",
        donor_qemu=Versions(before=_SAFE_EMULATION),
    ),
    KnownBad(
        code="libvirt_refuses_ht",
        rule="A guest with several CPUs moves from QEMU before 10.0.0 to a newer one only if the recipient's libvirt is"
        " 11.10.0 or newer: older ones fail with “extra features: ht”.",
        source="libvirt 11.10.0 release notes; QEMU issue 3153; Harvester issue 11615",
        architecture="x86_64",
        least_vcpus=2,
        donor_qemu=Versions(before=(10, 0, 0)),
        recipient_qemu=Versions(since=(10, 0, 0)),
        recipient_libvirt=Versions(before=(11, 10, 0)),
    ),
)


def known_bad_refusals(
    vm: VmDescription, donor: HypervisorVersions, recipient: HypervisorVersions, *, node: str
) -> Iterator[Refusal]:
    """A refusal for each row that this VM between these hosts meets; `node` is the recipient's."""
    for row in TABLE:
        if row.meets(vm, donor, recipient):
            yield Refusal(
                code=row.code,
                rule=row.rule,
                evidence=f"the donor runs {_named(donor)}, node {node} {_named(recipient)} ({row.source})",
            )


def _named(versions: HypervisorVersions) -> str:
    return f"QEMU {_dotted(versions.qemu)} and libvirt {_dotted(versions.libvirt)}"


def _dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)
