"""A finding as a sentence."""

from __future__ import annotations

from shared.domain import Finding, FindingKind, read_definition
from shared.domain.definition import MAX_HOST_BOUND
from tests.support.domain_samples import DOMAIN


def test_a_finding_names_code_part_and_reason() -> None:
    """In this order, so that a log is searched by code and read by people."""
    finding = Finding("disk_kind", FindingKind.BLOCKS, "disk vda", "it is shared")

    assert str(finding) == "disk_kind: disk vda: it is shared"


def test_of_very_many_host_bound_parts_the_number_is_told() -> None:
    """So that no definition makes a report without an end."""
    many = "".join(f"<quota{index}/>" for index in range(30_000))
    findings = read_definition(DOMAIN.replace("</cputune>", many + "</cputune>")).findings

    assert len(findings) == MAX_HOST_BOUND + 1
    assert (findings[-1].kind, findings[-1].part) == (FindingKind.NOT_KEPT, "definition")
    known = len(read_definition(DOMAIN).findings)
    assert f"and {30_000 + known - MAX_HOST_BOUND} more" in findings[-1].detail
