"""Metadata is data of people and tools: carried as it is, within a limit."""

from __future__ import annotations

import pytest

from shared.domain import FindingKind, build_for_host, parse, portable, read_definition
from shared.domain.metadata import MAX_METADATA_BYTES
from tests.support.domain_samples import DOMAIN, PLACES


def with_metadata(content: str) -> str:
    """The domain with metadata."""
    return DOMAIN.replace("<memory ", f"<metadata>{content}</metadata><memory ", 1)


@pytest.mark.parametrize(
    "content",
    [
        "<n:instance xmlns:n='http://openstack.org/nova/1.1'><n:name>测试 &amp; Café №7</n:name></n:instance>",
        "<a:note xmlns:a='urn:x'><![CDATA[<!DOCTYPE html><!ENTITY x><b>owner: /ops</b>]]></a:note>",
        "<a:mixed xmlns:a='urn:x'>one <a:b/> two</a:mixed>",
    ],
)
def test_metadata_of_any_namespace_is_carried(content: str) -> None:
    """Namespaces, mixed content, and text that only looks like a document type."""
    xml = with_metadata(content)
    kept = build_for_host(portable(xml), PLACES).root.find("metadata")
    given = parse(xml).root.find("metadata")

    assert read_definition(xml).blockers == ()
    assert kept is not None
    assert given is not None
    assert [part.tag for part in kept.iter()] == [part.tag for part in given.iter()]
    assert "".join(map(str, kept.itertext())).split() == "".join(map(str, given.itertext())).split()


def test_large_metadata_is_not_kept_and_that_is_told() -> None:
    """The VM is carried without it; the finding names the limit."""
    definition = read_definition(with_metadata(f"<a:x xmlns:a='urn:x'>{'y' * MAX_METADATA_BYTES}</a:x>"))

    (told,) = [finding for finding in definition.findings if finding.part == "metadata"]
    assert (told.kind, definition.blockers) == (FindingKind.NOT_KEPT, ())
    assert str(MAX_METADATA_BYTES) in told.detail
    assert "yyy" not in portable(definition)


def test_several_elements_of_metadata_are_not_kept() -> None:
    """libvirt has one."""
    xml = with_metadata("<a:x xmlns:a='urn:x'/>").replace("<memory ", "<metadata/><memory ", 1)

    assert "there are 2" in next(
        finding.detail for finding in read_definition(xml).findings if finding.part == "metadata"
    )


def test_metadata_elsewhere_is_no_metadata() -> None:
    """It is data only below the domain itself."""
    assert read_definition(DOMAIN.replace("<os>", "<os><metadata/>")).blockers
