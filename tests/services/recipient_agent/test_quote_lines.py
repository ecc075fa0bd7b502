"""What a quote says of the VM's host-bound parts."""

from __future__ import annotations

from typing import Any

import pytest

from services.recipient_agent.firmware_choice import ChosenFirmware
from services.recipient_agent.network_map import CardPlace
from services.recipient_agent.places import HostChoice
from services.recipient_agent.quote_lines import Lines, part_of, quote_lines, requirement_refusals
from services.recipient_agent.testing import MAC, XML, describe_as_donor, make_platform, make_vm
from shared.domain import describe
from shared.ejecting import without_media
from shared.messages.quote_lines import MAX_QUOTE_LINES, Part
from shared.messages.vm import Nic, Vlan, VmState
from tests.support.domain_samples import DOMAIN


def nic(**changes: Any) -> Nic:
    """A card on br0."""
    return Nic(**{"mac": MAC, "model": "virtio", "bridge": "br0", **changes})


def lines_of(*places: CardPlace, firmware: ChosenFirmware | None = None, **vm: Any) -> Lines:
    """Of a VM with these cards."""
    bare = {"made_anew": (), "not_kept": ()}
    return quote_lines(make_vm(**{**bare, **vm}), make_platform(), HostChoice(firmware, places))


def words(lines: Lines) -> dict[str, list[str]]:
    """As a person reads them, without the card's name. What becomes of its addresses is `network_lines`'."""
    return {
        name: [
            str(line).replace(f"network card {MAC}: ", "")
            for line in getattr(lines, name)
            if line.part is not Part.NETWORK
        ]
        for name in ("kept", "made_anew", "not_kept")
    }


@pytest.mark.parametrize(
    ("place", "kept", "changed", "lost"),
    [
        (CardPlace(nic(), bridge="br0"), ["bridge: bridge br0"], [], []),
        (CardPlace(nic(), bridge="br7"), [], ["bridge: bridge br0 becomes bridge br7"], []),
        (
            CardPlace(nic(vlan=Vlan(tags=(42,))), bridge="br42", is_that_vlan=True),
            [],
            ["bridge: bridge br0 becomes bridge br42", "vlan: VLAN 42 is all that bridge br42 carries: no tag"],
            [],
        ),
        (
            CardPlace(
                nic(vlan=Vlan(tags=(42,)), virtualport="openvswitch"),
                bridge="br0",
                openvswitch=True,
                vlan=Vlan(tags=(42,)),
            ),
            ["bridge: Open vSwitch bridge br0", "vlan: VLAN 42"],
            ["virtualport: a port of Open vSwitch with an id of its own"],
            [],
        ),
        (
            CardPlace(nic(vlan=Vlan(tags=(42,))), network="t", vlan=Vlan(tags=(1042,))),
            [],
            ["bridge: bridge br0 becomes network t", "vlan: VLAN 42 becomes 1042"],
            [],
        ),
        (
            CardPlace(nic(filter="clean-traffic", has_bandwidth=True, isolated=True), network="t"),
            [],
            ["bridge: bridge br0 becomes network t"],
            [
                "filter: its network filter is not kept",
                "bandwidth: its limit of bandwidth is not kept",
                "isolated: its isolation from other cards is not kept",
            ],
        ),
        (
            CardPlace(nic(isolated=True), bridge="br0"),
            ["bridge: bridge br0", "isolated: reaches no other isolated card of its bridge"],
            [],
            [],
        ),
        (
            CardPlace(nic(vlan=Vlan(tags=(42,)), isolated=True, filter="f"), bridge="vmp0123456789a0", own=True),
            ["isolated: alone on its bridge"],
            [
                "bridge: bridge br0 becomes a bridge of its own",
                "vlan: VLAN 42 is all that a bridge of its own carries: no tag",
            ],
            ["filter: its network filter is not kept"],
        ),
        (
            CardPlace(nic(kind="network", network="ovs", port_group="gold"), network="ovs"),
            [],
            ["bridge: network ovs, port group gold becomes network ovs"],
            ["port-group: port group gold is not kept"],
        ),
    ],
)
def test_what_becomes_of_a_card(place: CardPlace, kept: list[str], changed: list[str], lost: list[str]) -> None:
    """Nothing of it is lost without a word."""
    assert words(lines_of(place)) == {"kept": kept, "made_anew": changed, "not_kept": lost}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("numatune: not kept: the recipient places memory", Part.PLACEMENT),
        ("metadata: not kept: it has 2000000 bytes", Part.METADATA),
        ("on_lockfailure: not kept", Part.OTHER),
    ],
)
def test_lines_of_the_donor_have_stable_names(line: str, part: Part) -> None:
    """So that a tenant can require them."""
    assert part_of(line) is part
    assert [each.part for each in lines_of(not_kept=(line,)).not_kept] == [part]


def test_what_is_known_here_is_not_told_twice() -> None:
    """The donor says that the bridge will be another; here it is known which."""
    lines = lines_of(
        CardPlace(nic(), bridge="br7"),
        firmware=ChosenFirmware("60.json", "/OVMF.fd", "raw", None, "raw"),
        made_anew=(
            f"network card {MAC}: source bridge was br0: what the network map gives",
            "os/loader: the recipient's own firmware",
            "disk vda: source: a file of the recipient",
        ),
    )
    assert [line.part for line in lines.made_anew] == [Part.BRIDGE, Part.NETWORK, Part.FIRMWARE, Part.DISK]


@pytest.mark.parametrize(("description", "told"), [("UEFI with Secure Boot", "UEFI with Secure Boot"), ("", "60.json")])
def test_firmware_is_told_by_what_it_is(description: str, told: str) -> None:
    """Where its file lies at the recipient is nothing that a tenant needs to know."""
    firmware = ChosenFirmware("60.json", "/secret/OVMF.fd", "raw", None, "raw", description=description)

    (line,) = (each for each in lines_of(firmware=firmware).made_anew if each.part is Part.FIRMWARE)

    assert str(line) == f"firmware: firmware of the same kind: {told}"


def test_a_medium_that_stays_behind_is_told() -> None:
    """And nothing else of it: no file is made. An empty drive stays one, without a word."""
    iso = "<disk type='file' device='cdrom'>%s<target dev='%s' bus='sata'/><readonly/></disk>"
    limit = "<iotune><total_iops_sec>9</total_iops_sec></iotune>"
    drives = iso % ("<driver name='qemu' type='raw'/><source file='/i.iso'/>", "sda") + iso % (limit, "sdb")
    pending = "disk sda: not kept: at its next start the drive has what is in it now"
    vm = describe_as_donor(XML.replace("</devices>", f"{drives}</devices>"))
    vm = without_media(vm.model_copy(update={"not_kept": (*vm.not_kept, pending)}), ("all",))

    lines = quote_lines(vm, make_platform(), HostChoice())

    told = [str(line) for line in (*lines.made_anew, *lines.not_kept) if line.part is Part.DISK]
    assert told == [
        "disk: disk sda: its medium stays at the donor; the drive is empty",
        "disk: disk vda: type: a file of the recipient",
    ]
    assert any("disk sdb: iotune" in line.text for line in lines.not_kept)


def test_a_machine_that_will_go_is_told() -> None:
    """It is kept now; the tenant should know that it will not be there for ever."""
    lines = quote_lines(make_vm(made_anew=()), make_platform(deprecated_machines=("pc-q35-10.0",)), HostChoice())
    assert [str(line) for line in lines.kept] == ["machine: pc-q35-10.0, which a later QEMU will not have"]


def test_lines_are_bounded() -> None:
    """A quote is small; how much is left out is said."""
    lines = lines_of(not_kept=tuple(f"part {number}" for number in range(200))).not_kept
    assert len(lines) == MAX_QUOTE_LINES
    assert lines[-1].text == f"and {200 - MAX_QUOTE_LINES + 1} more"


def test_requirements_are_refused_by_name() -> None:
    """Changed or lost is both against a requirement; `all` speaks of what is lost."""
    lines = lines_of(CardPlace(nic(filter="clean-traffic"), bridge="br7"))

    def found(*required: Part) -> list[str]:
        return [refusal.evidence.split(":")[0] for refusal in requirement_refusals(required, lines)]

    assert found() == found(Part.PINNING) == []
    assert found(Part.BRIDGE) == ["changed"]
    assert found(Part.FILTER) == found(Part.ALL) == ["not kept"]


HOST_BOUND = (
    ("<os>", "<cputune><shares>9</shares><vcpupin vcpu='0' cpuset='1'/></cputune><os>"),
    ("<os>", "<numatune><memory mode='strict' nodeset='1'/></numatune><os>"),
    ("<os>", "<perf><event name='cmt' enabled='yes'/></perf><os>"),
    ("<os>", ("<blkiotune><weight>800</weight><device><path>/dev/sda</path><read_bytes_sec>9</read_bytes_sec></device>"
     "</blkiotune><memtune><hard_limit>9</hard_limit></memtune><os>")),
    ("<backingStore/>", "<backingStore/><iotune><total_iops_sec>9</total_iops_sec></iotune>"),
    ("</devices>", ("<vsock model='virtio'><cid auto='no' address='5'/></vsock><audio id='1' type='file' path='/x'/>"
     "<tpm model='tpm-crb'><backend type='emulator' version='2.0' debug='3'/></tpm></devices>")),
)  # fmt: skip


def test_what_a_donor_finds_in_a_definition_has_its_name_here() -> None:
    """The words of both are apart, and a requirement of the tenant must find its line."""
    xml = DOMAIN.replace("<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>", "")
    for old, new in HOST_BOUND:
        xml = xml.replace(old, new, 1)
    facts = describe(xml)
    told = facts.told(state=VmState.RUNNING, disks=(), autostart=False, persistent=True)

    lines = quote_lines(told, make_platform(), HostChoice())

    assert {line.part for line in (*lines.made_anew, *lines.not_kept)} == {
        Part.PINNING, Part.WEIGHTS, Part.PLACEMENT, Part.PERF, Part.DISK_LIMITS, Part.MEMORY_LIMITS, Part.DISK,
        Part.SERIAL_LOG, Part.DISPLAY, Part.VSOCK, Part.SOUND, Part.TPM, Part.OTHER, Part.NETWORK,
    }  # fmt: skip
    assert [line.text for line in lines.made_anew if line.part is Part.DISK] == [
        "disk vda: type: a file of the recipient"
    ]
    assert not any("network card" in line.text for line in (*lines.made_anew, *lines.not_kept))
