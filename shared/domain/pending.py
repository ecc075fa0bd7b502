"""What a VM would get at its next start, and what the recipient cannot give: it makes one place for each part. Pure.

The lasting definition is built with the files, networks and firmware of the live one. Where the two name others, the
change would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

from shared.domain.definition import Definition
from shared.domain.describe import describe
from shared.domain.facts import DiskFacts, NicFacts, VmFacts
from shared.domain.findings import Finding, FindingKind
from shared.messages.vm import CpuFacts, CpuMode, FirmwareFacts, FirmwareInterface

_ON = frozenset({"require", "force"})
_OTHERWISE = "is another in the lasting definition; start the VM with it, or take the change back"


def pending_changes(stored: Definition, live: Definition) -> Iterator[Finding]:
    """Those of a VM whose lasting definition has the disks and cards of the live one."""
    later, now = describe(stored), describe(live)
    if later.firmware_facts is not None and (
        _boots_by(later) != _boots_by(now) or _other_secure_boot(later.firmware_facts, now.firmware_facts)
    ):
        yield _blocks("pending_firmware", "os", "its firmware")
    if (later.kernel, later.initrd) != (now.kernel, now.initrd):
        yield _blocks("pending_boot", "os", "the kernel that it boots, or its initrd,")
    if _is_other_cpu(later.cpu, now.cpu) or _has_other_features(later.cpu, now.cpu):
        yield _blocks("pending_cpu", "cpu", "its CPU")
    drives = {drive.target: drive for drive in now.drives}
    for drive in later.drives:
        yield from _drive(drive, drives[drive.target])
    yield from _secrets(later, now)
    left = list(now.nics)
    for nic in later.nics:
        present = next(each for each in left if each.mac == nic.mac)
        left.remove(present)
        if _is_moved(nic, present):
            yield _blocks("pending_network", f"network card {nic.mac}", "its network, or what guards it,")
    yield from _only_later(stored, live)


def _is_other_cpu(later: CpuFacts, now: CpuFacts) -> bool:
    if later.mode is CpuMode.CUSTOM:
        return bool(later.model) and (now.mode is not CpuMode.CUSTOM or later.model != now.model)
    # For the others libvirt writes what it has chosen into the live definition.
    return later.mode in {CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM} and later.mode is not now.mode


def _has_other_features(later: CpuFacts, now: CpuFacts) -> bool:
    """Whether the next start asks for a feature that no CPU was compared with. What the definition asked for at the
    last start is in the live one, too, with what became of it.
    """
    running = {each.name: each.policy in _ON for each in now.features}
    asked = {each.name: each.policy in _ON for each in later.features if each.policy in {*_ON, "forbid"}}
    return any(running.get(name) is not wanted for name, wanted in asked.items())


def _blocks(code: str, part: str, what: str) -> Finding:
    return Finding(code, FindingKind.BLOCKS, part, f"{what} {_OTHERWISE}")


def _boots_by(facts: VmFacts) -> str:
    if facts.firmware == "uefi":
        return "UEFI"
    return "BIOS" if facts.firmware_facts is None else "a ROM"


def _other_secure_boot(later: FirmwareFacts, now: FirmwareFacts | None) -> bool:
    if later.interface is FirmwareInterface.EFI_AUTO and not later.secure_boot:
        return False  # as libvirt chooses, and it has chosen
    return now is not None and later.secure_boot != now.secure_boot


def _drive(later: DiskFacts, now: DiskFacts) -> Iterator[Finding]:
    if later.source == now.source:
        return
    part = f"disk {later.target}"
    if later.device == "disk":
        yield _blocks("pending_disk", part, "its file")
    else:
        detail = "not kept: at its next start the drive has what is in it now, not what the lasting definition says"
        yield Finding("pending_medium", FindingKind.NOT_KEPT, part, detail)


def _secrets(later: VmFacts, now: VmFacts) -> Iterator[Finding]:
    """Key and contents go along as they are now: another key would not open them."""
    there = {f"disk {drive.target}" for drive in later.drives}
    if any(need.kind == "tpm" for need in later.needs):
        there.add("tpm")
    for device in sorted({use.device for use in set(later.secrets) ^ set(now.secrets)} & there):
        yield _blocks("pending_secret", device, "its encryption")


def _is_moved(later: NicFacts, now: NicFacts) -> bool:
    if later.network != now.network or later.port_group != now.port_group:
        return True
    guards = zip(_guards(later), _guards(now), strict=True)
    if later.network:  # the live definition has also what the network gives to its cards
        return any(wanted and wanted != given for wanted, given in guards)
    return (later.bridge or "") != (now.bridge or "") or any(wanted != given for wanted, given in guards)


def _guards(nic: NicFacts) -> tuple[object, ...]:
    return nic.vlan, nic.virtualport, nic.isolated, nic.filter, nic.has_bandwidth


def _only_later(stored: Definition, live: Definition) -> Iterator[Finding]:
    """What the recipient does not keep, and what the live definition has not."""
    known = {(each.part, each.kind, _note(each)) for each in live.findings}
    for finding in stored.findings:
        if finding.kind is FindingKind.NOT_KEPT and (finding.part, finding.kind, _note(finding)) not in known:
            yield finding


def _note(finding: Finding) -> str:
    return finding.detail[finding.detail.find("not kept") :]
