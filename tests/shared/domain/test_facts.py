"""A VM's facts as they are told to others."""

from __future__ import annotations

from shared.domain import describe
from shared.messages.vm import Firmware, VmState
from tests.support.domain_samples import DOMAIN, with_device

CARD = (
    "<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='ovs0'/><port isolated='yes'/>"
    "<vlan trunk='yes'><tag id='10'/><tag id='20' nativeMode='untagged'/></vlan><virtualport type='openvswitch'/>"
    "<filterref filter='clean-traffic'/><bandwidth><inbound average='1'/></bandwidth></interface>"
)


def test_what_is_told_is_what_was_read() -> None:
    """The description has the facts, what blocks, what is made again and what is not kept."""
    facts = describe(with_device("<hostdev mode='subsystem' type='pci'/>"))
    told = facts.told(
        state=VmState.RUNNING,
        disks=tuple(drive.told(virtual_size_bytes=1 << 20) for drive in facts.drives),
        autostart=False,
        persistent=True,
        besides=("snapshots: it has one",),
    )

    assert (told.name, told.vcpus, told.firmware, told.kernel) == (
        "web",
        2,
        Firmware.DIRECT_KERNEL,
        "/boot/alpha/vmlinuz",
    )
    assert told.blockers == (
        "device_passthrough: hostdev: a device of the host is passed through (hostdev)",
        "snapshots: it has one",
    )
    assert any(line.startswith("vcpu@cpuset: was 0-1: not kept") for line in told.not_kept)
    assert any(line.startswith("disk vda: ") for line in told.made_anew)
    assert not any("/images" in line for line in (*told.made_anew, *told.not_kept))
    assert (told.disks[0].target, told.disks[0].virtual_size_bytes) == ("vda", 1 << 20)


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
