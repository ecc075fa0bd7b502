"""Each refusal has its code, and says who or what is missing."""

from __future__ import annotations

from services.recipient_agent.network_refusals import chained, impossible, unproven
from services.recipient_agent.prefix_proof import Code, Finding
from shared.messages.network import NetworkMode


def test_codes_and_evidence() -> None:
    finding = Finding(Code.IRR_MISSING, "192.0.2.0/24", "no route object")
    found = [unproven(finding), chained("alpha"), impossible(NetworkMode.ANCHOR, "the broker cannot")]
    assert [each.code for each in found] == ["irr_missing", "network_chain", "network_mode_impossible"]
    for part, each in zip(("192.0.2.0/24: no", "alpha", "anchor: the"), found, strict=True):
        assert part in each.evidence
