"""The table as a whole: every part of libvirt's schema has a fate, and nothing that is carried can name a host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.domain.table import TABLE, Fate, Row
from shared.domain.table.rows import split_path
from tests.support.libvirt_schema import SCHEMA, SchemaPart, schema_parts

needs_schema = pytest.mark.skipif(not SCHEMA.exists(), reason="libvirt's schema is not installed")

CARRIED = frozenset({Fate.ABI, Fate.LASTING})
TEXTS = frozenset({"line", "text"})
"""Kinds that can hold any characters."""
READ_BY_GUESTS_AND_PEOPLE = frozenset({
    "title", "description", "metadata/**", "os/cmdline",
    "sysinfo/entry", "sysinfo/bios/entry", "sysinfo/system/entry", "sysinfo/baseBoard/entry", "sysinfo/chassis/entry",
    "sysinfo/oemStrings/entry", "devices/disk/serial", "devices/disk/vendor", "devices/disk/product",
})  # fmt: skip
"""All that is carried as any characters: QEMU and libvirt pass it on, and open nothing of that name."""

NAMES_OF_A_HOST = (
    "/etc/shadow", "etc/shadow", "../../etc/shadow", "./x", "file:/etc/shadow", "nbd:127.0.0.1:10809",
    "nbd://host/export", "unix:/run/x", "unix:path=/run/x", "json:{}", "host:port", "10.0.0.1:5900", "[::1]:5900",
    "0000:01:00.0", "pci_0000_01_00_0,x=/y", "\\\\host\\share", "a=b",
)  # fmt: skip

PATTERNS_OF_A_HOST = frozenset({
    "absFilePath", "absDirPath", "filePath", "dirPath", "vmwarePath", "dbusAddr", "ipAddr", "ipv4Addr", "ipv6Addr",
    "dnsName", "addrIPorName", "deviceName",
})  # fmt: skip
"""Definitions of the schema that are a path or a network address."""

HOSTILE = (
    "sysinfo/entry@file", "os/acpi/table", "devices/pstore/path", "devices/input/source@evdev",
    "devices/input/source@dev", "devices/interface/rom@file", "devices/hostdev/rom@file", "os/kernel", "os/initrd",
    "os/dtb", "os/shim", "os/loader", "os/nvram", "os/nvram@template", "os/nvram/source@file", "os/root", "os/init",
    "bootloader", "devices/emulator", "devices/disk/source@file", "devices/disk/source@dev",
    "devices/disk/source@dir", "devices/disk/source@name", "devices/disk/source@path", "devices/disk/source@protocol",
    "devices/disk/source/host@name", "devices/disk/source/host@socket", "devices/disk/source/cookies/cookie",
    "devices/disk/source/identity@keyfile", "devices/disk/source/knownHosts@path", "devices/disk/mirror@file",
    "devices/disk/source/dataStore/source@file", "devices/disk/backingStore/source@file",
    "devices/disk/backingStore/backingStore/backingStore/source@dev", "devices/interface/source@path",
    "devices/interface/backend@tap", "devices/interface/backend@vhost", "devices/interface/backend@logFile",
    "devices/interface/script@path", "devices/interface/downscript@path", "devices/serial/source@path",
    "devices/serial/source@host", "devices/serial/log@file", "devices/serial@tty", "devices/channel/source@path",
    "devices/channel/target@address", "devices/graphics@socket", "devices/graphics@listen", "devices/graphics@passwd",
    "devices/graphics@xauth", "devices/graphics/listen@address", "devices/graphics/gl@rendernode",
    "devices/video/model/acceleration@rendernode", "devices/audio@path", "devices/audio@runtimeDir",
    "devices/audio@serverName", "devices/audio/output@dev", "devices/rng/backend", "devices/rng/backend/source@path",
    "devices/tpm/backend/device@path", "devices/tpm/backend/source@path", "devices/tpm/backend/encryption@secret",
    "devices/memory/source/path", "devices/shmem/server@path", "devices/filesystem/source@dir",
    "devices/filesystem/binary@path", "devices/hostdev/source/address@bus", "devices/lease/target@path",
    "devices/smartcard/database", "seclabel/label", "devices/disk/source/seclabel/label", "resource/partition",
    "blkiotune/device/path",
)  # fmt: skip


@pytest.fixture(scope="module")
def schema() -> Mapping[str, SchemaPart]:
    return schema_parts()


@needs_schema
def test_every_part_of_the_schema_has_a_fate(schema: Mapping[str, SchemaPart]) -> None:
    """What libvirt understands is classified, all of it."""
    assert len(schema) > 3000
    assert [path for path in schema if TABLE.find(path) is None] == []


@needs_schema
def test_no_row_is_dead(schema: Mapping[str, SchemaPart]) -> None:
    """Each row speaks of a part, and of values, that the schema has."""
    of_values: dict[str, set[str]] = {}
    for row in TABLE:
        of_values.setdefault(_last(row.path), set()).update(value.replace("*", "x") for value in row.values)
    alive: set[int] = set()
    for path, part in schema.items():
        values = part.words | (of_values.get(_last(path), set()) if part.types else set())
        alive |= {id(TABLE.find(path, value)) for value in (None, *values)}
    assert [f"{row.path}={'|'.join(row.values)}" for row in TABLE if id(row) not in alive] == []


def _last(path: str) -> str:
    """The attribute, or the name of the element."""
    names, attribute = split_path(path)
    return attribute or names[-1]


@needs_schema
def test_values_that_the_schema_lists_are_carried_or_have_a_reason(schema: Mapping[str, SchemaPart]) -> None:
    """No VM is refused for a value that libvirt knows, but with that value's own reason."""
    unexplained = [
        f"{path}={word}"
        for path, part in schema.items()
        for word in part.words
        if (row := TABLE.find(path, word)) is not None
        and row.fate in CARRIED
        and (row.kind is None or not row.kind.accepts(word))
    ]
    assert unexplained == []


@needs_schema
def test_a_text_is_carried_where_the_schema_has_one(schema: Mapping[str, SchemaPart]) -> None:
    """An element is carried with its text, and one without text has no kind."""
    wrong = [
        path
        for path, part in schema.items()
        if (row := TABLE.find(path)) is not None
        and row.fate in CARRIED
        and not row.whole
        and part.has_text != (row.kind is not None)
    ]
    assert wrong == []


@needs_schema
def test_no_path_and_no_address_of_the_schema_is_carried(schema: Mapping[str, SchemaPart]) -> None:
    """What the schema itself calls a path or a network address stays at its host."""
    named = {path: part for path, part in schema.items() if part.patterns & PATTERNS_OF_A_HOST and part.has_text}
    assert len(named) > 100
    assert [path for path in named if (row := TABLE.find(path)) is not None and row.fate in CARRIED] == []


@pytest.mark.parametrize("row", [row for row in TABLE if row.fate in CARRIED and row.kind], ids=lambda row: row.path)
def test_a_carried_value_names_nothing_of_a_host(row: Row) -> None:
    """A path, a URL, a socket and a device of the host cannot be written in it; a text is one that nobody opens."""
    assert row.kind is not None
    assert row.kind.carried
    if row.kind.name in TEXTS:
        assert row.path in READ_BY_GUESTS_AND_PEOPLE
        return
    # A VM may have any name without a slash; libvirt makes files of its own from it.
    values = [value for value in NAMES_OF_A_HOST if row.path != "name" or "/" in value]
    assert [value for value in values if row.kind.accepts(value)] == []


@pytest.mark.parametrize("path", HOSTILE)
def test_what_a_hostile_definition_could_open_is_never_carried(path: str) -> None:
    """The donor cannot have the recipient's libvirt open, label or connect to anything of the donor's choice."""
    row = TABLE.find(path)
    assert row is not None
    assert row.fate not in CARRIED


@pytest.mark.parametrize(
    ("path", "value", "fate"),
    [
        ("os/kernel", "/boot/vmlinuz", Fate.HOST),
        ("os/cmdline", "root=/dev/vda rw console=ttyS0", Fate.ABI),
        ("devices/disk@device", "lun", Fate.REFUSED),
        ("devices/interface/rom@file", "/x.rom", Fate.REFUSED),
        ("devices/interface/rom@file", "", Fate.ABI),
        ("devices/disk/alias@name", "virtio-disk0", Fate.LIVE),
        ("devices/disk/alias@name", "ua-root", Fate.LASTING),
        ("devices/channel/source@mode", "bind", Fate.HOST),
        ("devices/channel/source@mode", "connect", Fate.REFUSED),
        ("devices/interface/model@type", "e1000e", Fate.ABI),
        ("currentMemory", "1048576", Fate.LASTING),
        ("devices/nothing", None, None),
        ("devices/disk/nothing", None, None),
        ("devices/disk@nothing", "x", None),
        ("{http://example.org/any}thing", None, None),
    ],
)
def test_fates_that_others_rely_on(path: str, value: str | None, fate: Fate | None) -> None:
    """Direct boot of a kernel goes on to work; what nobody knows has no row."""
    row = TABLE.find(path, value)
    assert (row.fate if row else None) == fate


def test_notes_are_written_alike() -> None:
    """A note is put behind the part's name: no capital letter in front but in a name, and no full stop."""
    notes = {row.note for row in TABLE if row.note}
    assert [note for note in notes if note.endswith(".") or note != note.strip()] == []


SMALL = """
<grammar xmlns="http://relaxng.org/ns/structure/1.0">
  <define name="domain"><element name="domain">
    <ref name="path"/>
    <interleave>
      <optional><attribute name="id"/></optional>
      <element name="chain"><ref name="chain"/></element>
      <element name="line" ns="http://example.org/ns"><text/></element>
      <element><anyName/><attribute><choice><name>a</name><name>b</name></choice><value>on</value></attribute></element>
    </interleave>
  </element></define>
  <define name="path"><empty/></define>
  <define name="word"><choice><value>x</value><data type="string"/></choice></define>
  <define name="chain">
    <attribute name="kind"><ref name="word"/></attribute>
    <optional><element name="chain"><ref name="chain"/></element></optional>
  </define>
</grammar>
"""


def test_the_walk_of_a_small_schema(tmp_path: Path) -> None:
    """Names, choices of names, namespaces and values are found, and recursion ends at the second level."""
    schema = tmp_path / "small.rng"
    schema.write_text(SMALL)
    parts = schema_parts(schema)
    line = "{http://example.org/ns}line"
    assert set(parts) == {
        ".@id", "chain", "chain@kind", "chain/chain", "chain/chain@kind", line, "*", "*@a", "*@b"
    }  # fmt: skip
    assert parts["chain@kind"] == SchemaPart({"x"}, {"string"}, {"word"})
    assert parts["*@a"].only_words
    assert parts[".@id"].types == parts[line].types == {"text"}


@pytest.mark.parametrize("group", ["hyperv", "kvm"])
def test_a_switch_that_nobody_knows_has_no_row(group: str) -> None:
    """Only libvirt's names stand below it."""
    assert TABLE.find(f"features/{group}/evil") is None
    assert TABLE.find(f"features/{group}/evil@state", "on") is None
    assert TABLE.find(f"features/{group}/{'vapic' if group == 'hyperv' else 'hidden'}@state", "on") is not None
