"""A definition as a value: every part has found its row, or is a finding; hostile text gets nowhere."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from shared.domain import (
    DomainXmlError,
    FindingKind,
    Node,
    build_for_host,
    describe,
    guest_abi_differences,
    parse,
    portable,
    read_definition,
)
from shared.domain.definition import MAX_BLOCKERS
from shared.domain.table import Fate, Table, read_rows
from shared.messages.vm import VmState
from tests.support.domain_samples import DOMAIN, MAC, PLACES, with_device


def reasons(xml: str) -> list[str]:
    """Why it is refused."""
    return [str(finding) for finding in read_definition(xml).blockers]


def test_the_sample_is_portable() -> None:
    """What is bound to the host is told, and nothing blocks."""
    definition = read_definition(DOMAIN)

    assert definition.blockers == ()
    assert {finding.kind for finding in definition.findings} == {FindingKind.MADE_ANEW, FindingKind.NOT_KEPT}


def test_every_part_of_a_portable_definition_has_a_row() -> None:
    """Elements and attributes, at any depth."""

    def rowless(node: Node) -> list[str]:
        mine = [f"{node.path}@{each.name}" for each in node.attributes if each.row is None]
        return (
            ([node.path] if node.row is None else [])
            + mine
            + [path for child in node.children for path in rowless(child)]
        )

    assert rowless(read_definition(DOMAIN).root) == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("<features>", "<surprise/><features>", "surprise is not known"),
        ("<acpi/>", "<acpi surprise='1'/>", "features/acpi@surprise is not known"),
        ("<features>", "<x:y xmlns:x='urn:x'/><features>", "{urn:x}y is not known"),
        ("<features>", "<features x:y='1' xmlns:x='urn:x'>", "features@{urn:x}y is not known"),
        ("<acpi/>", "<acpi/>../etc/passwd", "text after <acpi>"),
        ("<features>", "<features>../etc/passwd", "features has text"),
        ("<acpi/>", "<acpi>etc/passwd</acpi>", "features/acpi has text"),
        ("dev='vda'", "dev='../../etc/passwd'", "disk/target@dev is '../../etc/passwd'"),
        ("262144</memory>", "262144 /etc/passwd</memory>", "memory is '262144 /etc/passwd'"),
        ("type='pci' domain='0x0000' bus='0x03'", "type='pci' domain='/x' bus='0x03'", "disk/address@domain is '/x'"),
        ("<memballoon", "<devices><interface/></devices><memballoon", "devices is not known"),
        ("<acpi/>", "<acpi><acpi/></acpi>", "features/acpi/acpi is not known"),
        ("<seclabel", "<devices><interface/></devices><seclabel", "devices is there twice"),
        ("<features>", "<os><type>hvm</type></os><features>", "os is there twice"),
    ],
)
def test_what_has_no_row_or_is_not_of_its_kind_is_refused_by_name(old: str, new: str, named: str) -> None:
    """Elements, attributes, namespaces, text before and after elements, and values."""
    assert old in DOMAIN
    assert any(named in reason for reason in reasons(DOMAIN.replace(old, new, 1)))


def test_comments_and_instructions_are_dropped() -> None:
    """They are no part of a definition, and split no text."""
    commented = DOMAIN.replace("<name>web</name>", "<name>w<!-- ../etc/passwd -->eb</name><?run /etc/passwd?>")

    assert reasons(commented) == []
    assert "<name>web</name>" in portable(commented)
    assert "passwd" not in portable(commented)


def test_a_value_that_no_message_shows_is_not_shown() -> None:
    """Paths, sockets and passwords of the host are in no finding."""
    secret = DOMAIN.replace("autoport='yes'", "passwd='s3cret' socket='/run/secret.sock'")

    assert not any("s3cret" in str(each) or "/run" in str(each) for each in read_definition(secret).findings)


def test_a_layer_beneath_a_layer_is_one_like_the_first() -> None:
    """A long chain has the same rows at every depth."""
    chain = "<backingStore type='file'><format type='qcow2'/><source file='/b'/>%s</backingStore>"
    xml = DOMAIN.replace("<backingStore/>", chain % (chain % (chain % "<backingStore/>")))

    assert reasons(xml) == []


def test_another_table_may_be_given() -> None:
    """The rows decide, and nothing else."""
    table = Table(read_rows("name abi name\nuuid refused any because"))
    xml = "<domain><name>a</name><uuid>b</uuid></domain>"

    assert [finding.detail for finding in read_definition(xml, table).blockers] == ["because (uuid)"]
    assert next(child.row.fate for child in read_definition(xml, table).root.children if child.row) is Fate.ABI


def test_a_definition_is_read_once() -> None:
    """However many steps it is passed to."""
    domain = parse(DOMAIN)

    assert read_definition(domain) is read_definition(domain)
    assert read_definition(read_definition(domain)) is read_definition(domain)


@pytest.mark.parametrize(
    "filler",
    [
        "<a/>" * 60_000,
        "".join(f"<a{i}/>" for i in range(30_000)),
        "<a>" * 200 + "</a>" * 200,
        "<on_x>/y</on_x>" * 20_000,
    ],
    ids=["many", "many kinds", "deep", "text"],
)
def test_a_definition_with_very_much_that_is_wrong_ends_soon(filler: str) -> None:
    """It is refused with a bounded list, in bounded time."""
    begun = time.process_time()
    found = read_definition(DOMAIN.replace("<features>", f"{filler}<features>")).blockers

    assert 1 <= len(found) <= MAX_BLOCKERS
    assert time.process_time() - begun < 10


def test_reading_and_comparing_a_large_definition_is_quick() -> None:
    """50 KiB are a VM with very many devices; the bound is loose, since hosts are loaded."""
    card = "<interface type='bridge'><mac address='52:54:00:00:01:%02x'/><source bridge='b'/></interface>"
    large = DOMAIN.replace("</devices>", "".join(card % number for number in range(250)) + "</devices>") + " " * 20_000
    other = large.replace("52:54:00:00:01:00", "52:54:00:00:02:00")
    read_definition(large)
    begun = time.process_time()

    assert guest_abi_differences(large, other)
    assert time.process_time() - begun < 2


# ---- hostile definitions ----

HOSTILE = [
    ("<kernel>/boot/alpha/vmlinuz</kernel>", "<dtb>etc/shadow</dtb>"),
    ("<kernel>/boot/alpha/vmlinuz</kernel>", "<shim>/etc/shadow</shim>"),
    ("<kernel>/boot/alpha/vmlinuz</kernel>", "<loader type='pflash'>etc/shadow</loader>"),
    ("<kernel>/boot/alpha/vmlinuz</kernel>", "<acpi><table type='slic'>etc/shadow</table></acpi>"),
    (
        "<kernel>/boot/alpha/vmlinuz</kernel>",
        "<loader type='pflash'>/x</loader><nvram type='network'><source protocol='nbd' name='etc/shadow'/></nvram>",
    ),
    ("<os>", "<sysinfo type='fwcfg'><entry name='opt/x' file='etc/shadow'/></sysinfo><os>"),
    ("<os>", "<sysinfo type='fwcfg'><entry name='../../etc/shadow'>x</entry></sysinfo><os>"),
    ("<memballoon model='virtio'/>", "<pstore backend='etc/shadow'><size>8</size></pstore>"),
    ("<memballoon model='virtio'/>", "<input type='evdev'><source dev='etc/shadow'/></input>"),
    ("<memballoon model='virtio'/>", "<input type='passthrough'><source evdev='etc/shadow'/></input>"),
    ("<memballoon model='virtio'/>", "<lease><lockspace>a</lockspace><key>b</key><target path='etc/shadow'/></lease>"),
    (
        "<memballoon model='virtio'/>",
        "<shmem name='../etc/shadow'><model type='ivshmem-plain'/></shmem>",
    ),
    (
        "<memballoon model='virtio'/>",
        "<tpm model='tpm-tis'><backend type='passthrough'><device path='etc/shadow'/></backend></tpm>",
    ),
    (
        "<memballoon model='virtio'/>",
        "<video><model type='virtio'><acceleration rendernode='etc/shadow'/></model></video>",
    ),
    ("<memballoon model='virtio'/>", "<memory model='virtio-pmem'><source><path>etc/shadow</path></source></memory>"),
    ("<memballoon model='virtio'/>", "<interface type='vhostuser'><source type='unix' path='etc/shadow'/></interface>"),
    (
        "<memballoon model='virtio'/>",
        "<smartcard mode='host-certificates'><certificate>a</certificate><database>etc/shadow</database></smartcard>",
    ),
    ("<model type='virtio'/>", "<model type='virtio'/><rom file='etc/shadow'/>"),
    ("<source file='/images/web.qcow2'/>", "<source protocol='nbd' name='etc/shadow'/>"),
    ("<source file='/images/web.qcow2'/>", "<source dev='etc/shadow'/>"),
    (
        "<source file='/images/web.qcow2'/>",
        "<source file='/x'><dataStore type='file'><source file='etc/shadow'/></dataStore></source>",
    ),
    (
        "<backingStore/>",
        "<backingStore type='network'><format type='raw'/><source protocol='nbd' name='etc/shadow'/></backingStore>",
    ),
    ("<backingStore/>", "<backingStore type='block'><format type='raw'/><source dev='etc/shadow'/></backingStore>"),
    ("<source path='/dev/pts/3'/>", "<source mode='connect' path='etc/shadow'/>"),
    ("type='pty' tty='/dev/pts/3'", "type='udp'"),
    ("type='pty' tty='/dev/pts/3'", "type='pipe'"),
    ("<target type='isa-serial'", "etc/shadow<target type='isa-serial'"),
    ("<features>", "<bootloader>etc/shadow</bootloader><features>"),
]


@pytest.mark.parametrize(("old", "new"), HOSTILE)
def test_a_hostile_definition_is_refused_by_name_and_cannot_be_built(old: str, new: str) -> None:
    """Relative and absolute paths, text beside elements, network and bus addresses, layers and data files."""
    assert old in DOMAIN
    hostile = DOMAIN.replace(old, new, 1)

    assert reasons(hostile)
    with pytest.raises(DomainXmlError, match="not portable"):
        build_for_host(hostile, PLACES)
    assert "etc/shadow" not in portable(hostile)


TWICE = [
    ("<source file='/images/web.qcow2'/>", "<source file='/images/web.qcow2'/><source file='etc/shadow'/>"),
    ("<target dev='vda' bus='virtio'/>", "<target dev='vda' bus='virtio'/><target dev='vdb' bus='virtio'/>"),
    ("<source bridge='br-alpha'/>", "<source bridge='br-alpha'/><source bridge='etc/shadow'/>"),
    ("<emulator>", "<emulator>etc/shadow</emulator><emulator>"),
    ("<devices>", "<devices><disk><source file='etc/shadow'/><target dev='vdz'/></disk></devices><devices>"),
    ("<features>", "<os><loader type='rom'>etc/shadow</loader></os><features>"),
    ("<kernel>", "<kernel>etc/shadow</kernel><kernel>"),
    ("<name>", "<name>other</name><name>"),
    ("<uuid>", "<uuid>11111111-2222-3333-4444-555555555509</uuid><uuid>"),
    ("<memory unit", "<memory unit='KiB'>1</memory><memory unit"),
    (
        "<memballoon model='virtio'/>",
        "<rng><backend model='random'>/dev/random</backend><backend model='random'>etc/shadow</backend></rng>",
    ),
    (
        "<memballoon model='virtio'/>",
        "<memory model='nvdimm'><source><path>/m</path><path>etc/shadow</path></source></memory>",
    ),
]


@pytest.mark.parametrize(("old", "new"), TWICE)
def test_what_is_looked_up_stands_once(old: str, new: str) -> None:
    """Of two, libvirt might take the one that nobody here has judged."""
    assert old in DOMAIN
    hostile = DOMAIN.replace(old, new, 1)

    assert [finding.code for finding in read_definition(hostile).blockers] == ["twice"]
    with pytest.raises(DomainXmlError, match="not portable"):
        build_for_host(hostile, PLACES)


REFUSED_AT_ONCE = [
    (
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/shadow'>]>" + DOMAIN.replace("<name>web", "<name>&x;"),
        "document type",
    ),
    ("<!DOCTYPE domain [<!ENTITY % x SYSTEM 'file:///etc/shadow'>%x;]>" + DOMAIN, "document type"),
    (DOMAIN.replace("<domain ", "<domain xmlns='http://libvirt.example' "), "the document is a"),
    (DOMAIN.replace("dev='vda'", f"dev='{'a' * 10_000_000}'"), "bytes, more than"),
    (DOMAIN.replace("<devices>", "<devices>" + "<a>" * 20_000 + "</a>" * 20_000), "depth"),
    (DOMAIN.replace("<name>web", "<name>we&#0;b"), "not well-formed"),
]


@pytest.mark.parametrize(("xml", "reason"), REFUSED_AT_ONCE)
def test_a_document_that_is_none_is_refused_with_its_reason(xml: str, reason: str) -> None:
    """Entities, another namespace, ten million characters, twenty thousand levels."""
    with pytest.raises(DomainXmlError, match=reason):
        read_definition(xml)


UNKNOWN = [
    ("<devices>", "<devices><x:include xmlns:x='http://www.w3.org/2001/XInclude' href='file:///etc/shadow'/>"),
    ("<target dev='vda'", "<target xml:base='file:///etc/shadow' dev='vda'"),
    ("<target dev='vda'", "<target xmlns:e='http://e.example' e:dev='etc/shadow' dev='vda'"),
    ("dev='vda'", "dev='vda,file=etc/shadow'"),
    ("dev='vda'", f"dev='{'a' * 900_000}'"),
    ("machine='pc-q35-10.0'", "machine='pc-q35-10.0,dumpdtb=etc/shadow'"),
    (">qemu64<", ">qemu64,x=etc/shadow<"),
    ("<graphics type='vnc'", "<graphics type='vnc' keymap='../etc/shadow'"),
    ("<name>web<", "<name>../etc/shadow<"),
    ("'>2</vcpu>", "'>9999999999999999999</vcpu>"),
    ("<devices>", "<devices>" + "<a/>" * 100_000),
]


@pytest.mark.parametrize(("old", "new"), UNKNOWN)
def test_a_part_that_is_none_is_refused_by_name(old: str, new: str) -> None:
    """Other namespaces, options of QEMU in a value, huge values, very many elements: none of it gets out."""
    assert old in DOMAIN
    hostile = DOMAIN.replace(old, new, 1)

    assert reasons(hostile)
    with pytest.raises(DomainXmlError, match="not portable"):
        build_for_host(hostile, PLACES)
    assert "etc/shadow" not in portable(hostile)


def test_a_size_that_no_host_has_is_an_error_of_the_definition() -> None:
    """Not one of the agent's."""
    facts = describe(DOMAIN.replace("<memory unit='KiB'>262144", "<memory unit='TiB'>999999999999999999"))
    with pytest.raises(DomainXmlError, match="does not fit: memory_bytes"):
        facts.told(state=VmState.RUNNING, disks=(), autostart=False, persistent=True)


REPLACED = [
    ("<source file='/images/web.qcow2'/>", "<source file='etc/shadow'/>"),
    ("<backingStore/>", "<backingStore type='file'><format type='raw'/><source file='etc/shadow'/></backingStore>"),
    ("/usr/bin/qemu-system-x86_64", "etc/shadow"),
    ("/boot/alpha/vmlinuz", "etc/shadow"),
    ("<source path='/dev/pts/3'/>", "<source path='etc/shadow'/>"),
    ("/var/log/alpha/web.log", "etc/shadow"),
    ("bridge='br-alpha'", "bridge='etc/shadow'"),
    ("listen='192.0.2.7'>", "listen='192.0.2.7' socket='etc/shadow'>"),
    ("<partition>/machine</partition>", "<partition>etc/shadow</partition>"),
    (
        "<seclabel type='none' model='none'/>",
        "<seclabel type='static' model='dac'><label>etc/shadow</label></seclabel>",
    ),
    ("<target dev='vnet3'/>", "<target dev='vnet3'/><script path='etc/shadow'/><backend vhost='etc/shadow'/>"),
    ("<memballoon model='virtio'/>", "<rng model='virtio'><backend model='random'>etc/shadow</backend></rng>"),
    ("<memballoon model='virtio'/>", "<audio id='1' type='file' path='etc/shadow'/>"),
    (
        "<memballoon model='virtio'/>",
        "<rng model='virtio'><backend model='egd'><source path='etc/shadow'/></backend></rng>",
    ),
    ("<memballoon model='virtio'/>", "<graphics type='egl-headless'><gl rendernode='etc/shadow'/></graphics>"),
    ("<memballoon model='virtio'/>", "<graphics type='sdl' xauth='etc/shadow'/>"),
]


@pytest.mark.parametrize(("old", "new"), REPLACED)
def test_a_path_where_the_host_has_its_own_is_the_hosts(old: str, new: str) -> None:
    """A symbolic link, a file or a program that a donor names is never opened: the recipient names its own."""
    assert old in DOMAIN
    built = build_for_host(DOMAIN.replace(old, new, 1), PLACES).to_text()

    assert "etc/shadow" not in built


def test_one_alias_of_two_devices_is_refused() -> None:
    """libvirt would refuse it, at the recipient and late; its own aliases are not carried."""
    twice = DOMAIN.replace("<alias name='virtio-disk0'/>", "<alias name='ua-x'/>").replace(
        "<target dev='vnet3'/>", "<target dev='vnet3'/><alias name='ua-x'/>"
    )

    (finding,) = read_definition(twice).blockers

    assert (finding.code, finding.part) == ("twice", f"network card {MAC}")
    assert read_definition(twice.replace("ua-x", "net0")).blockers == ()


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("<seclabel type='none' model='none'/>", []),
        ("<seclabel type='none' model='apparmor'/>", [FindingKind.NOT_KEPT]),
        ("<seclabel type='none'/>", [FindingKind.NOT_KEPT]),
        ("<seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label></seclabel>", []),
    ],
)
def test_that_a_vm_was_not_confined_is_told(label: str, told: list[FindingKind]) -> None:
    """The recipient's libvirt confines it; a host without labels is none where somebody chose that."""
    found = read_definition(DOMAIN.replace("<seclabel type='none' model='none'/>", label)).findings

    assert [each.kind for each in found if each.part.startswith("seclabel")] == told


def test_a_mac_address_is_one_of_one_card() -> None:
    """libvirt takes none of a group."""
    (finding,) = read_definition(DOMAIN.replace(MAC, "01:00:5e:00:00:01")).blockers

    assert "interface/mac@address" in finding.detail


TOKEN = "../etc/shadow"
FREE_TEXT = frozenset({"line", "text", "name"})


def _holders(node: Node) -> list[str]:
    """Where the token stands in parts that are not free text."""
    found = [
        f"{node.path}@{each.name}"
        for each in node.attributes
        if TOKEN in each.value and (each.row is None or each.row.kind is None or each.row.kind.name not in FREE_TEXT)
    ]
    if TOKEN in node.text and (node.row is None or node.row.kind is None or node.row.kind.name not in FREE_TEXT):
        found.append(node.path)
    return found + [path for child in node.children for path in _holders(child)]


def _mutate(data: st.DataObject) -> str:
    root = parse(with_device("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")).tree_copy()
    elements = list(root.iter())
    for _ in range(data.draw(st.integers(1, 4))):
        element = data.draw(st.sampled_from(elements))
        match data.draw(st.integers(0, 5)):
            case 0:
                element.text = TOKEN
            case 1 if element is not root:
                element.tail = TOKEN
            case 2 if element.attrib:
                element.set(data.draw(st.sampled_from(sorted(map(str, element.attrib)))), TOKEN)
            case 3:
                name = data.draw(st.sampled_from(["file", "dev", "path", "name", "type", "socket", "dir", "source"]))
                element.set(name, TOKEN)
            case 4:
                name = data.draw(
                    st.sampled_from(["source", "path", "kernel", "loader", "rom", "x", "device", "backend"])
                )
                etree.SubElement(element, name, file=TOKEN).text = TOKEN
            case _:
                element.append(etree.Comment(TOKEN))
    return str(etree.tostring(root, encoding="unicode"))


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_donor_writes_names_nothing_of_the_recipient(data: st.DataObject) -> None:
    """Either it is refused, or what is built has a path of the donor's at most in text for people and the guest."""
    xml = _mutate(data)
    definition = read_definition(xml)
    if definition.blockers:
        with pytest.raises(DomainXmlError):
            build_for_host(definition, PLACES)
        return
    built = read_definition(build_for_host(definition, PLACES).to_text())
    assert built.blockers == ()
    assert _holders(built.root) == []


@given(st.text(max_size=300))
def test_any_text_is_malformed_or_a_definition(text: str) -> None:
    """No input ends in any other error."""
    try:
        read_definition(text)
    except DomainXmlError:
        return
