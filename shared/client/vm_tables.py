"""How VMs look to people: ``vm list``, ``vm show``, ``vm check``. Pure: values in, tables out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from shared.client.render import (
    facts_table,
    has_lines,
    human_bytes,
    lines_table,
    make_table,
    offers_table,
    plain,
    refusals_table,
)
from shared.client.vm_check import ProviderVerdict, VmCheck
from shared.messages.queries import RegisteredVm, VmShown
from shared.messages.vm import CpuMode, Firmware, Vlan
from shared.messages.vm_details import CpuDetails, DiskDetails, VmDetails

ALL_DISKS = "all"


def vms_table(vms: Sequence[RegisteredVm]) -> Table:
    """``vm list``; with a column of notes where a VM cannot be read, or a size is not known."""
    notes = [_note(vm) for vm in vms]
    columns = ("NAME", "UUID", "STATE", "PROVIDER", "NODE", "VCPUS", "MEMORY", "DISK", "PORT")
    has_notes = any(notes)
    table = make_table(*columns, *(("NOTE",) if has_notes else ()), right=("VCPUS", "MEMORY", "DISK"))
    for vm, note in zip(vms, notes, strict=True):
        table.add_row(
            plain(vm.name),
            str(vm.uuid),
            vm.state,
            vm.provider,
            vm.node,
            str(vm.vcpus or "?"),
            human_bytes(vm.memory_bytes) if vm.memory_bytes else "?",
            _disk_text(vm),
            str(vm.port_id)[:8] if vm.port_id else "-",
            *((plain(note),) if has_notes else ()),
        )
    return table


def _note(vm: RegisteredVm) -> str:
    if vm.problem:
        return f"cannot be read: {vm.problem}"
    return f"size unknown: {', '.join(vm.unsized_disks)}" if vm.unsized_disks else ""


def _disk_text(vm: RegisteredVm) -> str:
    """A size that is not known is never shown as if it were nothing."""
    if ALL_DISKS in vm.unsized_disks or (vm.unsized_disks and not vm.disk_bytes):
        return "?"
    return human_bytes(vm.disk_bytes) + (" + ?" if vm.unsized_disks else "")


def vm_tables(shown: VmShown) -> list[Table]:
    """``vm show``: facts, disks, network cards, what speaks against a port, what a recipient makes again."""
    vm, details = shown.vm, shown.details
    tables = [
        facts_table(None, (*_registered_facts(vm), *_sizes(vm, details), *_detail_facts(details), _verdict(shown)))
    ]
    if details is not None:
        tables += _device_tables(details)
    if shown.refusals:
        tables.append(refusals_table(shown.refusals, title="what speaks against a port"))
    if details is not None and (details.made_anew or details.not_kept):
        tables.append(_lines(details))
    return tables


def _registered_facts(vm: RegisteredVm) -> Iterator[tuple[str, Any]]:
    yield "name", plain(vm.name)
    yield "uuid", vm.uuid
    yield "state", vm.state.value
    yield "provider", vm.provider
    yield "node", vm.node
    yield "epoch", vm.epoch
    yield "port under way", vm.port_id
    yield "problem", plain(vm.problem) if vm.problem else None


def _sizes(vm: RegisteredVm, details: VmDetails | None) -> Iterator[tuple[str, Any]]:
    """Now, which is what counts, and the maximum beside it."""
    if details is None:
        yield "vcpus", vm.vcpus or "?"
        yield "memory", human_bytes(vm.memory_bytes) if vm.memory_bytes else "?"
    else:
        most = f" (at most {details.vcpus_max})" if details.vcpus_max != details.vcpus else ""
        yield "vcpus", f"{details.vcpus}{most}"
        held = details.memory_bytes != details.memory_current_bytes
        balloon = f" ({human_bytes(details.memory_current_bytes)} without its balloon)" if held else ""
        yield "memory", human_bytes(details.memory_bytes) + balloon
    yield "disk", _disk_text(vm)


def _detail_facts(details: VmDetails | None) -> Iterator[tuple[str, Any]]:
    if details is None:
        return
    yield "machine", plain(f"{details.machine}, {details.architecture}, {details.domain_type}")
    yield "cpu", plain(_cpu_text(details.cpu))
    yield "firmware", _firmware_text(details)
    yield "autostart", "yes" if details.autostart else "no"
    yield "definition", "persistent" if details.persistent else "transient: it ends with the guest"
    for line in details.omitted:
        yield "not listed", plain(line)


def _cpu_text(cpu: CpuDetails) -> str:
    words = [cpu.model] if cpu.model else []
    if cpu.mode is not CpuMode.CUSTOM or not words:
        words.append(cpu.mode.value)
    if cpu.features:
        words.append(f"{len(cpu.features)} feature{'s' if len(cpu.features) > 1 else ''} named")
    return ", ".join(words)


_FIRMWARES = {Firmware.BIOS: "BIOS", Firmware.UEFI: "UEFI", Firmware.DIRECT_KERNEL: "boots a kernel directly"}


def _firmware_text(details: VmDetails) -> str:
    words = [_FIRMWARES[details.firmware]]
    if details.firmware is Firmware.DIRECT_KERNEL and (details.secure_boot or details.nvram):
        words.append(_FIRMWARES[Firmware.UEFI])
    words += ["secure boot"] if details.secure_boot else []
    words += ["variables of its own"] if details.nvram else []
    return ", ".join(words)


def _verdict(shown: VmShown) -> tuple[str, Any]:
    count = len(shown.refusals)
    if count:
        return "can it leave?", f"no, for {count} reason{'s' if count > 1 else ''}; see below"
    if shown.details is None:
        return "can it leave?", "not known"
    return "can it leave?", "yes, as far as its provider knows; 'vmport vm check' asks who can take it"


def _device_tables(details: VmDetails) -> Iterator[Table]:
    disks = make_table("DISK", "DEVICE", "BUS", "FORMAT", "SIZE", "HELD IN", "NOTE", right=("SIZE",))
    for disk in details.disks:
        disks.add_row(
            disk.target,
            plain(disk.device),
            plain(disk.bus),
            plain(disk.format),
            "-" if disk.empty else human_bytes(disk.size_bytes),
            plain(disk.kind),
            ", ".join(_disk_notes(disk)),
        )
    cards = make_table("NETWORK CARD", "MODEL", "KIND", "NETWORK", "VLAN")
    for nic in details.nics:
        network = nic.network + (f", port group {nic.port_group}" if nic.port_group else "")
        cards.add_row(nic.mac, plain(nic.model), plain(nic.kind), plain(network or "-"), _vlan_text(nic.vlan))
    yield disks
    yield cards


def _disk_notes(disk: DiskDetails) -> Iterator[str]:
    if disk.empty:
        yield "empty"
    if disk.read_only:
        yield "read-only"
    if disk.shared:
        yield "shared"
    if disk.snapshots:
        yield f"{disk.snapshots} internal snapshots"


def _vlan_text(vlan: Vlan | None) -> str:
    if vlan is None or not vlan.tags:
        return "-"
    return ", ".join(map(str, vlan.tags)) + (" (trunk)" if vlan.trunk else "")


def _lines(details: VmDetails) -> Table:
    table = make_table("", "PART", title="what is bound to its present host")
    for said, lines in (("not kept", details.not_kept), ("made again", details.made_anew)):
        for line in lines:
            table.add_row(said, plain(line))
    return table


def check_tables(check: VmCheck) -> list[Table]:
    """``vm check``: each provider's verdict, its offer with what becomes of the VM, or its reasons."""
    tables = []
    if check.refused_by:
        tables.append(refusals_table(check.refusals, title=f"{check.refused_by} refuses; no provider was asked"))
    if check.providers:
        verdicts = make_table("PROVIDER", "CAN TAKE IT", "REASONS")
        for verdict in check.providers:
            codes = ", ".join(dict.fromkeys(refusal.code for refusal in verdict.refusals))
            verdicts.add_row(verdict.provider, "yes" if verdict.can_take else "no", codes)
        tables.append(verdicts)
    offers = [verdict.quote for verdict in check.providers if verdict.quote is not None]
    if offers:
        tables.append(offers_table(offers))
    for verdict in check.providers:
        tables += _verdict_tables(verdict)
    return tables


def _verdict_tables(verdict: ProviderVerdict) -> Iterator[Table]:
    if verdict.quote is not None and has_lines(verdict.quote):
        yield lines_table(verdict.quote)
    if verdict.refusals:
        yield refusals_table(verdict.refusals, title=f"{verdict.provider} cannot take it")
