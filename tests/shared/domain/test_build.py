"""A VM written for another host: built from what is carried and from the host's own places."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from shared.domain import (
    DomainXmlError,
    FirmwarePlace,
    HostPlaces,
    NicPlace,
    build_for_host,
    describe,
    guest_abi_differences,
    parse,
    portable,
)
from shared.messages.vm import Vlan
from tests.support.domain_samples import DOMAIN, MAC, PLACES, with_device

NIC = (
    "<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='b'/><model type='virtio'/></interface>"
)


def built(xml: str = DOMAIN, **changes: object) -> str:
    """The VM for another host, made of its portable form."""
    return build_for_host(portable(xml), replace(PLACES, **changes)).to_text()  # type: ignore[arg-type]  # fields by name


def test_building_changes_the_host_and_not_the_guest() -> None:
    """Paths and bridges are the new host's; the guest sees no difference; nothing of the old host is left."""
    ours = build_for_host(portable(DOMAIN), PLACES)

    assert guest_abi_differences(DOMAIN, ours) == []
    facts = describe(ours)
    assert (facts.disks[0].source, facts.nics[0].bridge) == ("/srv/images/web-vda.qcow2", "br-beta")
    text = ours.to_text()
    for gone in ("alpha", "vnet3", "192.0.2.7", "cpuset", "seclabel", "/dev/pts", "virtio-disk0", "/usr/bin"):
        assert gone not in text
    assert "/var/log/beta/web.log" in text


def test_the_live_definition_and_its_portable_form_build_the_same() -> None:
    """What is built depends on what is carried, and on nothing else."""
    assert build_for_host(DOMAIN, PLACES).to_text() == build_for_host(portable(DOMAIN), PLACES).to_text()


def test_building_twice_changes_nothing() -> None:
    """What was built is a definition like any other."""
    once = build_for_host(DOMAIN, PLACES).to_text()
    assert once == build_for_host(once, PLACES).to_text()


def test_building_needs_a_place_for_everything() -> None:
    """A disk without a path, or a card without a network, is refused by name."""
    with pytest.raises(DomainXmlError, match="vda"):
        build_for_host(DOMAIN, HostPlaces(nics=PLACES.nics))
    with pytest.raises(DomainXmlError, match=MAC):
        build_for_host(DOMAIN, HostPlaces(disks=PLACES.disks))
    with pytest.raises(DomainXmlError, match="firmware"):
        build_for_host(DOMAIN.replace("<os>", "<os firmware='efi'>"), PLACES)


def test_a_definition_that_is_not_portable_is_not_built() -> None:
    """Whatever the places are."""
    with pytest.raises(DomainXmlError, match="hostdev"):
        build_for_host(with_device("<hostdev mode='subsystem' type='pci'/>"), PLACES)


def test_the_original_is_not_changed() -> None:
    """A domain that was read once is passed on to several readers."""
    original = parse(DOMAIN)
    before = original.to_text()
    build_for_host(original, PLACES)
    assert original.to_text() == before


def test_two_cards_with_one_mac_keep_their_own_networks() -> None:
    """Cards are known by their order."""
    twins = DOMAIN.replace("</devices>", NIC.replace("52:54:00:00:00:02", MAC) + "</devices>")

    xml = built(twins, nics=(NicPlace(bridge="lan"), NicPlace(bridge="wan")))

    assert [nic.bridge for nic in describe(xml).nics] == ["lan", "wan"]


def test_a_card_is_connected_as_the_host_says() -> None:
    """A bridge, a virtual network with its port group, a port in a VLAN, or QEMU's own network."""
    tagged = NicPlace(
        bridge="ovs0", virtualport="openvswitch", isolated=True, vlan=Vlan(tags=(10, 20), trunk=True, native=20)
    )
    for place, parts in (
        (NicPlace(network="default", port_group="slow"), ("network='default'", "portgroup='slow'")),
        (tagged, ("type='openvswitch'", "trunk='yes'", "nativeMode='untagged'", "isolated='yes'")),
        (NicPlace(), ("type='user'",)),
    ):
        text = built(nics=(place,)).replace('"', "'")
        for part in parts:
            assert part in text


def test_uefi_gets_the_hosts_firmware_and_a_file_for_its_variables() -> None:
    """Path and format are the host's; the template lies at the old host."""
    uefi = DOMAIN.replace(
        "<kernel>",
        "<loader readonly='yes' secure='yes' type='pflash' format='raw'>/x.fd</loader>"
        "<nvram template='/t.fd' templateFormat='raw' format='raw'>/y.fd</nvram><kernel>",
    )

    place = FirmwarePlace("/ours.qcow2", "/v.qcow2", "qcow2", "qcow2", "/t.qcow2", "qcow2")
    root = parse(built(uefi, firmware=place)).root

    loader, nvram = root.find("os/loader"), root.find("os/nvram")
    assert loader is not None
    assert nvram is not None
    assert (loader.text, loader.get("format"), loader.get("secure")) == ("/ours.qcow2", "qcow2", "yes")
    assert nvram.text == "/v.qcow2"
    assert dict(nvram.items()) == {"template": "/t.qcow2", "templateFormat": "qcow2", "format": "qcow2"}
    assert "template" not in built(uefi, firmware=FirmwarePlace("/ours.fd", "/v.fd"))


@pytest.mark.parametrize("loader", ["<loader>/x.bin</loader>", "<loader type='rom' format='raw'>etc/shadow</loader>"])
def test_a_rom_stays_one(loader: str) -> None:
    """Of the host's own files; it has neither variables nor a flash."""
    rom = DOMAIN.replace("<kernel>", f"{loader}<kernel>")

    found = parse(built(rom, firmware=FirmwarePlace("/ours.bin"))).root.find("os/loader")

    assert found is not None
    assert (found.text, found.get("type"), found.get("readonly")) == ("/ours.bin", "rom", None)


@pytest.mark.parametrize(
    ("features", "kept"),
    [
        (frozenset({"secure-boot", "requires-smm"}), "efi"),
        (frozenset({"secure-boot", "requires-smm", "enrolled-keys"}), None),
        (frozenset(), None),
        (None, None),
    ],
)
def test_the_wish_that_libvirt_chooses_stays_where_it_would_choose_the_same(
    features: frozenset[str] | None, kept: str | None
) -> None:
    """Else libvirt would refuse the definition, after the guest has moved."""
    wish = (
        "<os firmware='efi'><firmware><feature enabled='yes' name='secure-boot'/>"
        "<feature enabled='no' name='enrolled-keys'/></firmware>"
    )
    place = FirmwarePlace("/ours.fd", "/v.fd", features=features)

    os = parse(built(DOMAIN.replace("<os>", wish), firmware=place)).root.find("os")

    assert os is not None
    assert os.get("firmware") == kept
    assert (os.find("firmware") is None) == (kept is None)
    assert os.findtext("loader") == "/ours.fd"


def test_the_state_of_a_tpm_outlives_its_guest() -> None:
    """A guest that arrives is transient at first: libvirt would delete its state when it ends."""
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"

    assert 'persistent_state="yes"' in built(with_device(tpm))


@pytest.mark.parametrize(
    ("device", "type_", "source"),
    [
        ("<serial type='unix'><source mode='bind' path='/run/x'/><target port='1'/></serial>", "pty", None),
        ("<serial type='file'><source path='/var/x'/><target port='1'/></serial>", "pty", None),
        (
            "<channel type='unix'><source mode='bind' path='/run/x'/><target type='virtio' name='org.x.0'/></channel>",
            "unix",
            None,
        ),
        (
            "<channel type='spiceport'><source channel='org.x.0'/><target type='virtio' name='org.x.0'/></channel>",
            "spiceport",
            "channel",
        ),
        (
            "<channel type='qemu-vdagent'><source><clipboard/></source><target type='virtio'/></channel>",
            "qemu-vdagent",
            "clipboard",
        ),
    ],
)
def test_a_character_device_keeps_what_libvirt_demands(device: str, type_: str, source: str | None) -> None:
    """A socket and a file become the recipient's own; what is no place of a host stays."""
    root = parse(built(with_device(device))).root
    made = root.findall(f"devices/{device[1:].partition(' ')[0]}")[-1]

    assert made.get("type") == type_
    kept = made.find("source")
    assert (kept is None) is (source is None)
    assert kept is None or source in {*map(str, kept.attrib), *(str(part.tag) for part in kept)}


def test_each_serial_port_has_a_log_of_its_own() -> None:
    """Two ports never write one file; a port without a place for a log has none."""
    two = with_device("<serial type='pty'><log file='/var/log/alpha/web.log'/><target port='1'/></serial>")

    logs = [log.get("file") for log in parse(built(two, logs={"serial 0": "/a", "serial 1": "/b"})).root.iter("log")]

    assert logs == ["/a", "/b"]
    assert "<log" not in built(two, logs={})


def test_random_numbers_vsock_and_graphics_are_the_hosts_own() -> None:
    """Its kernel's random numbers, a free number, its address; no password."""
    devices = (
        "<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>"
        "<vsock model='virtio'><cid auto='no' address='5'/></vsock>"
    )
    text = built(with_device(devices).replace("autoport='yes'", "autoport='no' passwd='s3cret'")).replace('"', "'")

    assert "/dev/urandom" in text
    assert "<cid auto='yes'/>" in text
    assert "s3cret" not in text
    assert "address='127.0.0.1'" in text


def test_pinning_of_the_old_host_is_dropped() -> None:
    """Its cores mean nothing at another one."""
    tuned = DOMAIN.replace("placement='static'", "placement='auto'").replace(
        "<os>", "<numatune><memory mode='strict' nodeset='1'/></numatune><os>"
    )
    text = built(tuned)

    for gone in ("placement", "cpuset", "numatune", "vcpupin"):
        assert gone not in text


NVDIMM = (
    "<memory model='nvdimm' access='private'><uuid>11111111-2222-3333-4444-555555555502</uuid>"
    "<source><path>etc/shadow</path><alignsize unit='KiB'>2048</alignsize></source>"
    "<target><size unit='KiB'>523264</size><node>0</node><label><size unit='KiB'>128</size></label></target></memory>"
)
PSTORE = "<pstore backend='acpi-erst'><path>etc/shadow</path><size unit='KiB'>8</size></pstore>"


def test_memory_in_files_gets_files_of_the_host() -> None:
    """Their contents come in QEMU's stream, and must get into the file, or the guest's next start finds nothing."""
    xml = with_device(NVDIMM + PSTORE)
    files = {"memory 0": "/srv/images/m.img", "pstore": "/srv/images/p.img"}

    facts = describe(xml)
    ours = build_for_host(portable(xml), replace(PLACES, memory_files=files))

    assert facts.blockers == ()
    assert [each.detail for each in facts.findings if each.detail.startswith("access: it becomes shared")]
    shared = describe(xml.replace("access='private'", "access='shared'"))
    assert not [each.detail for each in shared.findings if each.detail.startswith("access")]
    assert [(file.name, file.size_bytes) for file in facts.memory_files] == [
        ("memory 0", 523264 << 10),
        ("pstore", 8192),
    ]
    assert guest_abi_differences(xml, ours) == []
    assert [file.path for file in describe(ours).memory_files] == ["/srv/images/m.img", "/srv/images/p.img"]
    assert 'access="shared"' in ours.to_text()
    assert "shadow" not in ours.to_text() + portable(xml)
    for name in files:
        with pytest.raises(DomainXmlError, match=f"no file is given for {name}"):
            build_for_host(xml, replace(PLACES, memory_files={each: files[each] for each in files if each != name}))


def test_firmware_that_libvirt_chooses_is_no_rom() -> None:
    """An inactive definition may ask for secure boot, and leave the file and its kind to libvirt."""
    asked = DOMAIN.replace("<os>", "<os firmware='efi'><loader secure='yes'/>")
    facts = describe(portable(asked)).firmware_facts

    loader = parse(built(portable(asked), firmware=FirmwarePlace("/ours.fd", "/v.fd"))).root.find("os/loader")

    assert facts is not None
    assert (facts.interface, facts.secure_boot) == ("efi-auto", True)
    assert loader is not None
    assert (loader.get("type"), loader.get("secure")) == ("pflash", "yes")


def test_a_vm_without_firmware_of_its_own_gets_none() -> None:
    """After its next start it may boot by BIOS, though it runs with UEFI now."""
    assert "loader" not in built(DOMAIN, firmware=FirmwarePlace("/ours.fd", "/v.fd"))


def test_what_is_encrypted_needs_a_secret_of_the_new_host() -> None:
    """And never stays without encryption for the lack of one."""
    xml = with_device("<tpm model='tpm-crb'><backend type='emulator'><encryption secret='x'/></backend></tpm>")

    with pytest.raises(DomainXmlError, match="no secret is given for tpm"):
        built(xml)
    assert f'<encryption secret="{UUID(int=7)}"/>' in built(xml, secrets={"tpm": UUID(int=7)})
