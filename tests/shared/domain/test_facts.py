"""A VM's facts as they are told to others."""

from __future__ import annotations

import pytest

from shared.domain import DomainXmlError, VmFacts, describe
from shared.messages.vm import Firmware, VmDescription, VmState
from tests.support.domain_samples import DOMAIN, MAC, UUID, with_device

CARD = (
    "<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='ovs0'/><port isolated='yes'/>"
    "<vlan trunk='yes'><tag id='10'/><tag id='20' nativeMode='untagged'/></vlan><virtualport type='openvswitch'/>"
    "<filterref filter='clean-traffic'/><bandwidth><inbound average='1'/></bandwidth></interface>"
)


def test_what_is_told_is_what_was_read() -> None:
    """The description has the facts, what blocks, what is made again and what is not kept."""
    facts = describe(with_device("<hostdev mode='subsystem' type='pci'/>"))
    described = facts.told(
        state=VmState.RUNNING,
        disks=tuple(drive.told(virtual_size_bytes=1 << 20) for drive in facts.drives),
        autostart=False,
        persistent=True,
        besides=("snapshots: it has one",),
    )

    assert (described.name, described.vcpus, described.firmware, described.kernel) == (
        "web",
        2,
        Firmware.DIRECT_KERNEL,
        "/boot/alpha/vmlinuz",
    )
    assert described.blockers == (
        "device_passthrough: hostdev: a device of the host is passed through (hostdev)",
        "snapshots: it has one",
    )
    assert any(line.startswith("vcpu@cpuset: was 0-1: not kept") for line in described.not_kept)
    assert any(line.startswith("disk vda: ") for line in described.made_anew)
    assert not any("/images" in line for line in (*described.made_anew, *described.not_kept))
    assert (described.disks[0].target, described.disks[0].virtual_size_bytes) == ("vda", 1 << 20)


def test_a_cards_network_at_the_donor_is_told() -> None:
    """Its VLAN, switch, filter and limits: what the recipient's network map looks at."""
    nic = describe(with_device(CARD)).nics[1].told()

    assert (nic.bridge, nic.kind, nic.virtualport, nic.filter) == ("ovs0", "bridge", "openvswitch", "clean-traffic")
    assert (nic.isolated, nic.has_bandwidth) == (True, True)
    assert nic.vlan is not None
    assert (nic.vlan.tags, nic.vlan.trunk, nic.vlan.native, nic.vlan.native_mode) == ((10, 20), True, 20, "untagged")


def test_a_card_on_a_virtual_network_names_it() -> None:
    """And the bridge that libvirt has chosen for it."""
    xml = DOMAIN.replace("type='bridge'", "type='network'").replace(
        "bridge='br-alpha'", "network='lan' bridge='virbr0' portgroup='g'"
    )
    nic = describe(xml).nics[0].told()

    assert (nic.kind, nic.network, nic.bridge, nic.port_group) == ("network", "lan", "virbr0", "g")


def told(facts: VmFacts) -> VmDescription:
    """The VM as it is told, with disks of which nothing is known."""
    disks = tuple(drive.told() for drive in facts.drives)
    return facts.told(state=VmState.RUNNING, disks=disks, autostart=False, persistent=True)


LONG = "x" * 257


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("dev='vda'", "dev='vda1'", "disk vda1"),
        ("dev='vda'", "dev='nvme0n1'", "disk nvme0n1"),
        ("dev='vda'", "dev='sdabcde'", "disk sdabcde"),
        ("<target dev='vda'", f"<serial>{LONG}</serial><target dev='vda'", "disk vda"),
        ("<source bridge=", f"<source network='{LONG}' bridge=", f"network card {MAC}"),
        ("<source bridge=", f"<source portgroup='{LONG}' bridge=", f"network card {MAC}"),
        ("</devices>", "".join(f"<sound model='m{i}'/>" for i in range(600)) + "</devices>", "needs"),
        ("<vcpu ", "<vcpu current='0' ", "vcpus"),
        ("<memory unit='KiB'>262144", "<memory unit='TiB'>99999999", "memory_bytes"),
        (UUID, "no-uuid", "uuid"),
    ],
)
def test_a_value_that_is_not_told_is_named(old: str, new: str, named: str) -> None:
    """With its disk or card, as what is wrong with the definition."""
    assert old in DOMAIN
    with pytest.raises(DomainXmlError, match=named):
        told(describe(DOMAIN.replace(old, new)))


@pytest.mark.parametrize("tag", ["id='5000'", "id='x'", "id='0x10'", "id='-1'", "", "id='1' nativeMode='y'"])
def test_a_vlan_tag_that_is_none_blocks_its_card(tag: str) -> None:
    """The VM is read all the same."""
    card = f"<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='b'/><vlan><tag {tag}/></vlan>"
    (blocker,) = told(describe(with_device(card + "</interface>"))).blockers

    assert blocker.startswith("network_kind: network card 52:54:00:00:00:02: its VLAN tag (")


def test_very_many_vlan_tags_block_their_card() -> None:
    """At the limit all are told."""
    card = "<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='b'/><vlan>%s</vlan></interface>"
    of = [told(describe(with_device(card % ("<tag id='7'/>" * count)))) for count in (256, 257)]

    assert [len(vm.blockers) for vm in of] == [0, 1]
    assert "at most 256" in of[1].blockers[0]
