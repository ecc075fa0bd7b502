"""Every file and device that a definition names is found, wherever it stands."""

from __future__ import annotations

import pytest

from shared.domain import DomainXmlError, NamedFile, named_files

XML = """<domain type='kvm'><name>web</name>
<os><kernel>/boot/k</kernel><initrd>/boot/i</initrd><loader>/l.fd</loader><nvram><source file='/n2'/></nvram></os>
<devices>
<disk type='file' device='disk'><driver type='qcow2'/><source file='/a'><dataStore type='file'><format type='raw'/>
  <source file='/a.data'/></dataStore></source>
  <backingStore type='file'><format type='raw'/><source file='/base'/><backingStore/></backingStore>
  <mirror type='file'><format type='qcow2'/><source file='/copy'/></mirror><target dev='vda'/></disk>
<disk type='block' device='disk'><driver type='raw'/><source dev='/dev/sdb'/><target dev='vdb'/></disk>
<disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='vdc'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='pool/image'/><target dev='vdd'/></disk>
<disk type='file' device='cdrom'><source file='/cd.iso'/><target dev='sda'/><readonly/></disk>
<disk type='file' device='cdrom'><target dev='sdb'/></disk>
</devices></domain>"""


def test_all_kinds_are_found() -> None:
    """Disks with all that lies beneath or beside, devices, volumes, media, and what is booted from."""
    found = named_files(XML)
    assert [file.path for file in found if file.path] == [
        "/a", "/a.data", "/base", "/copy", "/dev/sdb", "/cd.iso", "/boot/k", "/boot/i", "/l.fd", "/n2",
    ]  # fmt: skip
    assert [(file.pool, file.volume) for file in found if file.path is None] == [("p", "v")]


def test_only_what_has_a_header_may_have_something_beneath() -> None:
    """A format that is not known may, too."""
    assert [file.path or file.volume for file in named_files(XML) if file.may_have_backing] == [
        "/a", "/copy", "v", "/cd.iso",
    ]  # fmt: skip


def test_older_ways_to_name_firmware_variables() -> None:
    """As text."""
    assert named_files("<domain><os><nvram>/n</nvram></os></domain>") == (NamedFile("/n"),)


def test_what_is_no_domain_is_refused() -> None:
    """Nothing is guessed."""
    with pytest.raises(DomainXmlError):
        named_files("<pool/>")
