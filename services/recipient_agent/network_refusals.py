"""Refusals about how a VM's addresses are kept. Pure."""

from __future__ import annotations

from services.recipient_agent.prefix_proof import Finding
from shared.messages.base import Refusal
from shared.messages.network import NetworkMode


def unproven(finding: Finding) -> Refusal:
    """What is missing before a public prefix may be announced."""
    return Refusal(
        code=str(finding.code),
        rule="A public prefix is announced only with its proofs: the holder's word, ROAs and a route object.",
        evidence=f"{finding.prefix}: {finding.detail}",
    )


def chained(helper: str) -> Refusal:
    """The addresses need the help of an earlier port's donor, and that ends with the next port."""
    return Refusal(
        code="network_chain",
        rule="A VM whose addresses need the help of an earlier donor is not ported on: the help ends with the port.",
        evidence=f"packets come by the help of {helper}, which has been the donor of an earlier port; port the VM home "
        f"to {helper} and from there on, or wait until its addresses are announced where it is",
    )


def impossible(wanted: NetworkMode, why: str) -> Refusal:
    """A mode that one side cannot."""
    return Refusal(
        code="network_mode_impossible",
        rule="The VM's addresses are kept in the way that was asked for.",
        evidence=f"{wanted}: {why}",
    )
