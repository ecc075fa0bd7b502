"""A finding as a sentence."""

from __future__ import annotations

from shared.domain import Finding, FindingKind


def test_a_finding_names_code_part_and_reason() -> None:
    """In this order, so that a log is searched by code and read by people."""
    finding = Finding("disk_kind", FindingKind.BLOCKS, "disk vda", "it is shared")

    assert str(finding) == "disk_kind: disk vda: it is shared"
