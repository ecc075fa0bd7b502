"""A VM is tried for another host before anybody is asked to take it."""

from __future__ import annotations

import pytest

from shared.domain import FindingKind, leaving, portable
from tests.support.domain_samples import DOMAIN, with_device


def test_a_portable_vm_leaves_with_both_definitions() -> None:
    """In their portable forms, and nothing is found."""
    goes = leaving(DOMAIN, DOMAIN.replace("'>2</vcpu>", "'>4</vcpu>"))

    assert goes.findings == ()
    assert goes.domain_xml == portable(DOMAIN)
    assert goes.lasting_xml is not None
    assert "<vcpu>4</vcpu>" in goes.lasting_xml


def test_a_transient_vm_leaves_with_one() -> None:
    """It has no lasting definition."""
    assert leaving(DOMAIN, None).lasting_xml is None


@pytest.mark.parametrize(
    ("lasting", "code", "part"),
    [
        (with_device("<hostdev mode='subsystem' type='pci'/>"), "device_passthrough", "hostdev"),
        (
            with_device("<disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>"),
            "pending_disk",
            "disk vdb",
        ),
        (
            with_device("<interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='b'/></interface>"),
            "pending_network_card",
            "network card 52:54:00:00:00:02",
        ),
        (DOMAIN.replace("<name>web<", "<name>other<"), "pending_identity", "definition"),
        ("<domain>", "lasting_unreadable", "definition"),
        (DOMAIN.replace("<uuid>", "<xuuid>").replace("</uuid>", "</xuuid>"), "lasting_unreadable", "definition"),
    ],
)
def test_what_only_the_lasting_definition_has_is_found(lasting: str, code: str, part: str) -> None:
    """It would be lost, or fail at the VM's next start."""
    findings = leaving(DOMAIN, lasting).findings

    assert (code, part) in {(finding.code, finding.part) for finding in findings}
    assert {finding.kind for finding in findings} == {FindingKind.BLOCKS}


def test_a_vm_that_cannot_be_written_for_another_host_is_found_here() -> None:
    """Not at the recipient, after its quote."""
    (finding,) = leaving(
        with_device("<disk type='file' device='disk'><target dev='vdb' bus='virtio'/></disk>"), None
    ).findings

    assert (finding.code, finding.kind) == ("disk_kind", FindingKind.BLOCKS)
    assert (finding.part, finding.detail) == ("disk vdb", "it has no source")


def test_memory_that_is_only_in_the_lasting_definition_is_found() -> None:
    """No file of it would be made, nor its contents copied."""
    module = "<memory model='nvdimm'><source><path>/m</path></source><target><size>9</size></target></memory>"

    assert leaving(with_device(module), with_device(module)).findings == ()
    assert [each.code for each in leaving(DOMAIN, with_device(module)).findings] == ["pending_memory"]


def test_a_lasting_definition_that_cannot_be_written_is_found() -> None:
    """It would fail at the recipient, after its quote."""
    deep = "<a>" * 200 + "<b/>" * 9000 + "</a>" * 200
    lasting = DOMAIN.replace("<os>", f"<metadata>{deep}</metadata><os>")

    (finding,) = leaving(DOMAIN, lasting).findings

    assert "the lasting definition cannot be written for another host" in finding.detail


def test_what_both_definitions_have_is_named_once() -> None:
    """By what reading the live one finds."""
    passed = with_device("<hostdev mode='subsystem' type='pci'/>")

    assert leaving(passed, passed).findings == ()
    assert len(leaving(DOMAIN, passed).findings) == 1


def test_a_disk_without_a_source_is_named() -> None:
    """In either definition; a drive may be empty."""
    bare = with_device("<disk type='file' device='disk'><target dev='vdb' bus='virtio'/></disk>")

    assert [str(each) for each in leaving(bare, bare).findings] == ["disk_kind: disk vdb: it has no source"]
    assert [str(each) for each in leaving(DOMAIN, bare).findings] == [
        "disk_kind: disk vdb: in the lasting definition: it has no source"
    ]


@pytest.mark.parametrize("vsock", ["<vsock/>", "<vsock><cid auto='no' address='5'/></vsock>"])
def test_a_vsock_without_a_model_leaves(vsock: str) -> None:
    """Its number is the recipient's."""
    assert leaving(with_device(vsock), with_device(vsock)).findings == ()
