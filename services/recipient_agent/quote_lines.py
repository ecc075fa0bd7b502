"""What a quote says of the VM's host-bound parts: kept, changed (was ... becomes ...), not kept. Pure.

Made from what the donor says of the VM and from what was chosen for it here. What becomes of network cards and firmware
is known here only, so the donor's own lines about them are left out.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from services.recipient_agent.network_lines import network_lines
from services.recipient_agent.network_map import CardPlace, card, guards_of
from services.recipient_agent.places import HostChoice
from shared.messages.base import Refusal
from shared.messages.quote_lines import MAX_QUOTE_LINES, Part, QuoteLine
from shared.messages.vm import HostPlatform, Nic, Vlan, VmDescription

_OURS = re.compile(
    r"os/(loader|nvram)\b"
    r"|network card [^ ]*: (type|source|vlan|virtualport|port|filterref|bandwidth|target)\b(?!.*not kept: an address)"
)
"""Lines of the donor about what is told here."""
_MEDIUM = re.compile(
    r"disk ([^ :]+): (?:(?:type|driver type|source|backingStore)\b|not kept: at its next start the drive)"
)
"""Lines of the donor about what is in a drive."""
_PARTS: tuple[tuple[str, Part], ...] = (
    (r"cputune/(vcpu|emulator|iothread)pin|vcpu@(cpuset|placement)", Part.PINNING),
    (r"cputune|blkiotune/(device/)?weight", Part.WEIGHTS),
    (r"numatune|memory: source nodemask", Part.PLACEMENT),
    (r"blkiotune|throttlegroups|disk [^ ]*: (iotune|throttlefilters)", Part.DISK_LIMITS),
    (r"memtune", Part.MEMORY_LIMITS),
    (r"(serial|console|parallel|channel)( [^ ]*)?: (log|source append)", Part.SERIAL_LOG),
    (r"graphics", Part.DISPLAY),
    (r"metadata", Part.METADATA),
    (r"perf\b", Part.PERF),
    (r"vsock", Part.VSOCK),
    (r"audio", Part.SOUND),
    (r"tpm", Part.TPM),
    (r"disk ", Part.DISK),
)
"""By how a line of the donor begins: with the device's name or the path. The first that fits."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The three lists of a quote."""

    kept: tuple[QuoteLine, ...] = ()
    made_anew: tuple[QuoteLine, ...] = ()
    not_kept: tuple[QuoteLine, ...] = ()


NO_LINES = Lines()


def quote_lines(vm: VmDescription, platform: HostPlatform, choice: HostChoice) -> Lines:
    """What becomes of each part on this host. All lists are bounded; the provider's own findings come first."""
    kept: list[QuoteLine] = []
    made_anew: list[QuoteLine] = []
    not_kept: list[QuoteLine] = []
    identities = vm.network.cards if vm.network is not None and choice.network.terms is not None else ()
    for index, place in enumerate(choice.cards):
        rules = len(identities[index].firewall) if index < len(identities) else 0
        _card_lines(place, kept, made_anew, not_kept, firewall_rules=rules)
    told = network_lines(vm, choice.network)
    kept += told.kept
    made_anew += told.unsure
    if choice.firmware is not None:
        # Its name and no path: where the files of this provider lie is nobody else's business.
        text = f"firmware of the same kind: {choice.firmware.description or choice.firmware.name}"
        made_anew.append(QuoteLine(part=Part.FIRMWARE, text=text))
    if vm.machine in platform.deprecated_machines:
        kept.append(QuoteLine(part=Part.MACHINE, text=f"{vm.machine}, which a later QEMU will not have"))
    left = _left_behind(vm)
    made_anew += left.values()
    made_anew += _donors(vm.made_anew, left)
    not_kept += _donors(vm.not_kept, left)
    return Lines(_bounded(kept), _bounded(made_anew), _bounded(not_kept))


def requirement_refusals(required: Iterable[Part], lines: Lines) -> Iterator[Refusal]:
    """One for each line that breaks a requirement of the tenant."""
    wanted = set(required)
    for line, lost in (*((each, False) for each in lines.made_anew), *((each, True) for each in lines.not_kept)):
        if line.part in wanted or (lost and Part.ALL in wanted):
            yield Refusal(
                code="requirement_not_met",
                rule=f"The tenant requires that {line.part if line.part in wanted else 'everything'} stays as it is.",
                evidence=f"{'not kept' if lost else 'changed'}: {line.text}",
            )


def _left_behind(vm: VmDescription) -> dict[str, QuoteLine]:
    """By target, drives that are empty here and were not: of a drive without a medium the donor tells no file."""
    media = {match[1] for line in (*vm.made_anew, *vm.not_kept) if (match := _MEDIUM.match(line))}
    return {
        disk.target: QuoteLine(
            part=Part.DISK, text=f"disk {disk.target}: its medium stays at the donor; the drive is empty"
        )
        for disk in vm.disks
        if disk.empty and disk.target in media
    }


def _donors(lines: Iterable[str], left: Container[str]) -> Iterator[QuoteLine]:
    for line in lines:
        medium = _MEDIUM.match(line)
        if not _OURS.match(line) and not (medium and medium[1] in left):
            yield QuoteLine(part=part_of(line), text=line)


def part_of(line: str) -> Part:
    """The stable name of a part of which the donor says something."""
    return next((part for pattern, part in _PARTS if re.match(pattern, line)), Part.OTHER)


def _bounded(lines: list[QuoteLine]) -> tuple[QuoteLine, ...]:
    unique = list(dict.fromkeys(lines))
    if len(unique) <= MAX_QUOTE_LINES:
        return tuple(unique)
    more = len(unique) - MAX_QUOTE_LINES + 1
    return (*unique[: MAX_QUOTE_LINES - 1], QuoteLine(part=Part.OTHER, text=f"and {more} more"))


def _card_lines(
    place: CardPlace,
    kept: list[QuoteLine],
    made_anew: list[QuoteLine],
    not_kept: list[QuoteLine],
    *,
    firewall_rules: int,
) -> None:
    nic = place.nic
    was = _was(nic)
    target = kept if was == str(place) else made_anew
    target.append(_about(nic, Part.BRIDGE, str(place) if was == str(place) else f"{was} becomes {place}"))
    if nic.port_group and nic.port_group != place.port_group:
        becomes = f"becomes {place.port_group}" if place.port_group else "is not kept"
        into = made_anew if place.port_group else not_kept
        into.append(_about(nic, Part.PORT_GROUP, f"port group {nic.port_group} {becomes}"))
    if nic.vlan is not None and nic.vlan.tags:
        if place.vlan == nic.vlan:
            kept.append(_about(nic, Part.VLAN, f"VLAN {_tags(nic.vlan)}"))
        elif place.vlan is not None:
            made_anew.append(_about(nic, Part.VLAN, f"VLAN {_tags(nic.vlan)} becomes {_tags(place.vlan)}"))
        else:
            made_anew.append(_about(nic, Part.VLAN, f"VLAN {_tags(nic.vlan)} is all that {place} carries: no tag"))
    for guard in guards_of(nic):
        if guard == "isolated" and place.own:
            kept.append(_about(nic, Part.ISOLATED, "alone on its bridge"))
        elif guard == "filter" and place.own and firewall_rules:
            told = f"its network filter becomes {firewall_rules} rules of this provider's"
            made_anew.append(_about(nic, Part.FILTER, told))
        elif guard == "isolated" and place.isolated:
            kept.append(_about(nic, Part.ISOLATED, "reaches no other isolated card of its bridge"))
        elif guard == "virtualport" and place.openvswitch and nic.virtualport == "openvswitch":
            made_anew.append(_about(nic, Part.VIRTUALPORT, "a port of Open vSwitch with an id of its own"))
        else:
            not_kept.append(_about(nic, Part(guard), _GUARDS[guard]))


_GUARDS = {
    "filter": "its network filter is not kept",
    "bandwidth": "its limit of bandwidth is not kept",
    "isolated": "its isolation from other cards is not kept",
    "virtualport": "the profile of its port is not kept",
}


def _about(nic: Nic, part: Part, text: str) -> QuoteLine:
    return QuoteLine(part=part, text=f"{card(nic)}: {text}")


def _was(nic: Nic) -> str:
    if nic.network:
        return f"network {nic.network}" + (f", port group {nic.port_group}" if nic.port_group else "")
    if nic.bridge:
        return f"{'Open vSwitch bridge' if nic.virtualport == 'openvswitch' else 'bridge'} {nic.bridge}"
    return "QEMU's user network" if nic.kind == "user" else f"a network of kind {nic.kind}"


def _tags(vlan: Vlan) -> str:
    return ", ".join(map(str, vlan.tags))
