"""VMs as people run them, all the way to a recipient: read, tried, described, judged and written. Samples of our own.

Each kind ends in one of three ways: it is carried whole, with what is told of it; it is refused at the description by
one code; or it cannot be read, with a sentence. Nothing is refused later than that, and nothing crashes.
"""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

import pytest

from services.recipient_agent.domain import Prepared, prepare
from services.recipient_agent.network_map import NetworkMap, NetworkRule
from services.recipient_agent.platform import judge_host
from services.recipient_agent.quote_lines import quote_lines
from services.recipient_agent.testing import VERSIONS, describe_as_donor, make_node, make_places, make_platform
from shared.domain import (
    DomainXmlError,
    FindingKind,
    describe,
    guest_abi_differences,
    leaving,
    next_needs,
    read_definition,
)
from shared.messages.host import FirmwareOffer, FirmwareTarget, OtherArchitecture
from shared.messages.vm import Firmware, IdentityBundle, VmDescription
from shared.testing import make_lane_endpoint
from tests.support.domain_samples import DOMAIN, MAC

RULES = (
    NetworkRule(kind="user", to_user=True),
    NetworkRule(kind="passt", to_bridge="br-beta"),
    NetworkRule(kind="ethernet", to_bridge="br-beta"),
    NetworkRule(kind="bridge", vlan="any", to_bridge="ovs", openvswitch=True, to_vlan="same"),
)
PLACES = make_places(bridges=NetworkMap(default="br-beta", rules=RULES), boot_dirs=("/boot",))
UEFI = FirmwareOffer(
    name="40.json", interfaces=("uefi",), device="flash", code="/ours/CODE.fd", code_format="raw", code_bytes=4096,
    template="/ours/VARS.fd", template_bytes=512, features=("secure-boot", "requires-smm"),
    targets=(FirmwareTarget(architecture="x86_64", machines=("pc-q35-*",)),),
)  # fmt: skip
HOST = make_platform(
    accelerators=("kvm", "qemu"),
    machines=("pc-q35-10.0", "pc-i440fx-10.0"),
    firmwares=tuple(Firmware),
    bridges=("br-beta", "ovs"),
    ovs_bridges=("ovs",),
    firmware_offers=(UEFI,),
    other_architectures=(OtherArchitecture(architecture="i686", accelerators=("qemu",)),),
)
END, OS, DISK, CARD = "</devices>", "<os>", "<backingStore/>", "<model type='virtio'/>"
TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
Edits = tuple[tuple[str, str], ...]


def device(xml: str) -> Edits:
    """One more device."""
    return ((END, xml + END),)


def card(xml: str, kind: str = "bridge") -> Edits:
    """One more network card."""
    return device(f"<interface type='{kind}'><mac address='52:54:00:00:00:09'/>{xml}<model type='virtio'/></interface>")


def before_os(xml: str) -> Edits:
    """Something in front of <os>."""
    return ((OS, xml + OS),)


CARRIED: dict[str, tuple[Edits, tuple[str, ...]]] = {
    "a VM of Proxmox": (
        (
            ("pc-q35-10.0", "pc-i440fx-10.0"),
            ("dev='vda' bus='virtio'", "dev='sda' bus='scsi'"),
            (OS, "<iothreads>1</iothreads>" + OS),
            (END, "<controller type='scsi' index='0' model='virtio-scsi'><driver queues='4' iothread='1'/></controller>"
             "<input type='tablet' bus='usb'/><video><model type='vga' vram='16384' heads='1'/></video>" + END),
        ),
        (),
    ),
    "a VM of OpenStack": (
        (
            (OS, "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>"
             "<nova:name>a &amp; b</nova:name></nova:instance></metadata>" + OS),
            (CARD, "<mtu size='1442'/><driver name='vhost' rx_queue_size='512'/>" + CARD),
            ("dev='vnet3'", "dev='tapc6b3fba0-1e'"),
        ),
        ("cputune/vcpupin",),
    ),
    "Windows 11": (
        (
            ("type='qemu'", "type='kvm'"),
            ("<kernel>", "<loader readonly='yes' secure='yes' type='pflash'>/o</loader><nvram>/w</nvram><kernel>"),
            ("<acpi/>", ("<acpi/><hyperv mode='custom'><relaxed state='on'/><stimer state='on'><direct state='on'/>"
             "</stimer></hyperv><smm state='on'/>")),
            (END, TPM + "<sound model='ich9'/><redirdev bus='usb' type='spicevmc'/>" + END),
        ),
        ("firmware",),
    ),
    "eight consoles": (
        device("".join(f"<console type='pty'><target type='virtio' port='{port}'/></console>" for port in range(1, 9))),
        (),
    ),
    "memory that grows": (
        (
            ("<memory unit='KiB'>262144", ("<maxMemory slots='16' unit='KiB'>16777216</maxMemory>"
             "<memory unit='KiB'>917504")),
            ("</cpu>", "<numa><cell id='0' cpus='0-1' memory='262144' unit='KiB'/></numa></cpu>"),
            (END, "<memory model='virtio-mem'><source><nodemask>1-3</nodemask></source><target><size unit='KiB'>131072"
             "</size><node>0</node><block unit='KiB'>2048</block><requested unit='KiB'>0</requested></target></memory>"
             "<memory model='nvdimm'><source><path>/n</path></source><target><size unit='KiB'>524288</size>"
             "<node>0</node></target></memory>" + END),
        ),
        ("memory: source nodemask", "memory: access: it becomes shared"),
    ),
    "everything tuned": (
        before_os("<blkiotune><weight>800</weight></blkiotune><numatune><memory mode='strict' nodeset='0'/></numatune>"
                  "<memtune><hard_limit>9</hard_limit></memtune>"),
        ("blkiotune/weight", "numatune", "memtune"),
    ),
    "a VM that nothing confines": ((("type='none' model='none'", "type='none' model='selinux'"),), ("seclabel",)),
    "a disk with a policy": ((("web.qcow2'", "web.qcow2' startupPolicy='optional'"),), ()),
    "a chain": (
        (
            (DISK, ("<backingStore type='file'><format type='qcow2'/><source file='/b'/><backingStore type='file'>"
             "<format type='raw'/><source file='/c'/><backingStore/></backingStore></backingStore>")),
        ),
        (),
    ),
    "QEMU's user network": (card("<ip family='ipv4' address='172.17.2.0' prefix='24'/>", "user"), ("ip: not kept",)),
    "passt": (
        card("<portForward proto='tcp'><range start='22'/></portForward><backend type='passt'/>", "user"),
        ("portForward: not kept",),
    ),
    "passt over vhost-user": (card("<source dev='e'/><backend type='passt'/>", "vhostuser"), ()),
    "a trunk of Open vSwitch": (
        card("<source bridge='o'/><vlan trunk='yes'><tag id='42'/><tag id='123' nativeMode='untagged'/></vlan>"
             "<virtualport type='openvswitch'/>"),
        (),
    ),
    "a boot order": (
        ((DISK, DISK + "<boot order='2'/>"), (CARD, "<rom file=''/><boot order='1'/>" + CARD)),
        (),
    ),
    "serial numbers like paths": (
        (
            (OS, "<sysinfo type='smbios'><baseBoard><entry name='serial'>/a/b</entry></baseBoard><baseBoard>"
             "<entry name='serial'>../2</entry></baseBoard><oemStrings><entry>x:/etc/shadow</entry></oemStrings>"
             "</sysinfo>" + OS),
            ("<kernel>", "<smbios mode='sysinfo'/><kernel>"),
        ),
        (),
    ),
    "watchdog, panic and random numbers": (
        device("<watchdog model='itco' action='none'/><panic model='pvpanic'/><rng model='virtio'>"
               "<backend model='egd' type='tcp'><source mode='connect' host='192.0.2.1' service='1'/></backend></rng>"),
        ("rng: backend",),
    ),
    "metadata of strangers": (
        before_os("<metadata><a:x xmlns:a='urn:foo' a:b='1'>text <a:i>mixed</a:i> tail<!-- c --><![CDATA[<x>&]]></a:x>"
                  "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='-S'/>"
                  "</q:commandline></metadata>"),
        (),
    ),
    "very much metadata": (
        before_os(f"<metadata><a xmlns='urn:x'>{'x' * 200_000}</a></metadata>"),
        ("metadata: not kept: it has 200",),
    ),
    "comments": ((("<target dev='vda'", "<!-- /etc/shadow --><target dev='vda'"),), ()),
    "300 disks": (
        device("".join(f"<disk type='file'><source file='/{n}'/><target dev='s{chr(97 + n // 26)}{chr(97 + n % 26)}'"
                       " bus='scsi'/></disk>" for n in range(300))),
        (),
    ),
    "a name in other letters": ((("<name>web<", "<name>🦊 ünï\u202e<"),), ()),
    "two cards with one MAC": (
        device(f"<interface type='bridge'><mac address='{MAC}'/><source bridge='wan'/>{CARD}</interface>"),
        (),
    ),
    "a 32-bit VM": ((("arch='x86_64' machine='pc-q35-10.0'", "arch='i686' machine='pc-i440fx-10.0'"),), ()),
    "an empty drive with a policy": (
        device("<disk type='file' device='cdrom'><source startupPolicy='optional'/><target dev='sdb' bus='sata'"
               " tray='open'/><readonly/></disk>"),
        (),
    ),
    "a VNC password": ((("autoport='yes'", "autoport='yes' passwd='s3cr3t' passwdValidTo='x'"),), ("graphics",)),
}  # fmt: skip

REFUSED: dict[str, tuple[Edits, str]] = {
    "virtio-fs": (device("<filesystem type='mount'><driver type='virtiofs'/></filesystem>"), "shared_filesystem"),
    "vhost-user": (card("<source type='unix' path='/v' mode='server'/>", "vhostuser"), "network_kind"),
    "a data file beneath": (
        (
            (DISK, ("<backingStore type='file'><format type='qcow2'/><source file='/b'><dataStore type='file'>"
             "<source file='/b.raw'/></dataStore></source><backingStore/></backingStore>")),
        ),
        "disk_kind",
    ),
    "a transient disk": (((DISK, DISK + "<transient shareBacking='yes'/>"),), "disk_kind"),
    "macvtap": (card("<source dev='eno1' mode='bridge'/>", "direct"), "network_kind"),
    "SR-IOV": (card("<source><address type='pci'/></source>", "hostdev"), "network_kind"),
    "USB of the host": (device("<hostdev mode='subsystem' type='usb'><source/></hostdev>"), "device_passthrough"),
    "SEV": (((OS, "<launchSecurity type='sev-snp'><policy>0x30000</policy></launchSecurity>" + OS),),
            "confidential_guest"),
    "the host's serial numbers": ((("<kernel>", "<smbios mode='host'/><kernel>"),), "not_portable"),
    "text between devices": (((END, "/etc/shadow" + END),), "stray_text"),
    "an unknown attribute": ((("<target dev='vda'", "<target evil='/x' dev='vda'"),), "unknown_part"),
    "a boot order below zero": (((DISK, DISK + "<boot order='-2'/>"),), "value_not_carried"),
    "an MTU of 2^64": (((CARD, f"<mtu size='{1 << 64}'/>" + CARD),), "value_not_carried"),
    "a VLAN below zero": (((CARD, "<vlan><tag id='-1'/></vlan>" + CARD),), "network_kind"),
    "a name with a path": ((("<name>web<", "<name>../etc/x<"),), "value_not_carried"),
    "a name of two lines": ((("<name>web<", "<name>a\nb<"),), "value_not_carried"),
    "a store of variables of a later libvirt": ((("<kernel>", "<varstore path='/x'/><kernel>"),), "unknown_part"),
    "a medium in the network": (
        device("<disk type='network' device='cdrom'><source protocol='https' name='/x'/><target dev='sdb' bus='sata'/>"
               "</disk>"),
        "disk_kind",
    ),
}  # fmt: skip

UNREADABLE: dict[str, tuple[Edits, str]] = {
    "memory below zero": ((("<memory unit='KiB'>262144", "<memory unit='KiB'>-1"),), "'-1' is not a number"),
    "memory of 1e9": ((("<memory unit='KiB'>262144", "<memory unit='KiB'>1e9"),), "'1e9' is not a number"),
    "memory of 2^64": ((("<memory unit='KiB'>262144", f"<memory unit='KiB'>{1 << 64}"),), "is not a number"),
    "memory of 2^63 bytes": ((("<memory unit='KiB'>262144", f"<memory unit='KiB'>{1 << 53}"),), "memory_bytes"),
    "no vCPU": ((("'>2</vcpu>", "'>0</vcpu>"),), "vcpus"),
    "more vCPUs than there may be": ((("'>2</vcpu>", "' current='9'>2</vcpu>"),), "9 run now"),
    "two disks of one name": (device("<disk><source file='/b'/><target dev='vda' bus='scsi'/></disk>"), "two are vda"),
    "a name of blanks": ((("<name>web<", "<name>   <"),), "name"),
    "an entity": ((("dev='vda'", "dev='&x;'"),), "not well-formed"),
    "too much of it": (before_os(f"<metadata><a>{'x' * (2 << 20)}</a></metadata>"), "more than"),
    "too deep": (before_os(f"<metadata>{'<a>' * 5000}{'</a>' * 5000}</metadata>"), "depth"),
}


def edited(edits: Edits) -> str:
    """The sample with the kind's own parts."""
    xml = DOMAIN
    for old, new in edits:
        assert old in xml, old
        xml = xml.replace(old, new, 1)
    return xml


def told_by_donor(xml: str) -> VmDescription:
    """As its node tells it, with the sizes of its firmware and what its next start needs."""
    vm = describe_as_donor(xml)
    sizes = {"size_bytes": 4096, "nvram_size_bytes": 512}
    firmware = vm.firmware_facts.model_copy(update=sizes) if vm.firmware_facts is not None else None
    needs = (*vm.needs, *next_needs(leaving(xml, xml).lasting_xml or ""))
    return vm.model_copy(update={"firmware_facts": firmware, "needs": tuple(dict.fromkeys(needs))})


@pytest.mark.parametrize("kind", CARRIED)
def test_a_kind_that_is_carried_to_a_recipient(kind: str) -> None:
    """The guest sees the same machine, nothing of the donor's host is in it, and what is bound to it is told."""
    edits, told = CARRIED[kind]
    xml = edited(edits)

    goes = leaving(xml, xml)
    assert read_definition(xml).blockers == goes.findings == ()
    vm = VmDescription.model_validate_json(told_by_donor(xml).model_dump_json())
    judged = judge_host(vm, VERSIONS, make_node(platform=HOST), places=PLACES, silent_s=0, silent_after_s=30, cpu=())
    assert judged.refusals == ()
    identity = IdentityBundle(
        vm=vm, domain_xml=goes.domain_xml, domain_xml_sha256=sha256(goes.domain_xml.encode()).hexdigest(),
        lasting_xml=goes.lasting_xml, versions=VERSIONS, node="alpha-1", lane=make_lane_endpoint(),
    )  # fmt: skip
    ours = prepare(identity, port_id=UUID(int=7), places=PLACES, choice=judged.choice)
    assert isinstance(ours, Prepared), ours

    assert guest_abi_differences(xml, ours.domain_xml) == []
    for theirs in (
        "/images/web.qcow2",
        "vnet3",
        "tapc6",
        "s3cr3t",
        "192.0.2.",
        "/dev/pts",
        "br-alpha",
        "/var/log/alpha",
    ):
        assert theirs not in ours.domain_xml
    lines = quote_lines(vm, HOST, judged.choice)
    said = [str(line) for line in (*lines.made_anew, *lines.not_kept)]
    for words in told:
        assert any(words in line for line in said), said


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_is_refused_at_its_description(kind: str) -> None:
    """By one code, before anybody is asked for a quote."""
    edits, code = REFUSED[kind]

    blockers = read_definition(edited(edits)).blockers

    assert {finding.code for finding in blockers} == {code}
    assert {finding.kind for finding in blockers} == {FindingKind.BLOCKS}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_kind_that_cannot_be_read(kind: str) -> None:
    """One sentence that says what is wrong; it is one VM's problem."""
    edits, words = UNREADABLE[kind]

    with pytest.raises(DomainXmlError, match=words):
        describe_as_donor(edited(edits))


def test_all_kinds_are_described_whatever_becomes_of_them() -> None:
    """A VM that cannot leave is shown to its owner all the same."""
    for edits, _ in REFUSED.values():
        assert describe(edited(edits)).blockers
