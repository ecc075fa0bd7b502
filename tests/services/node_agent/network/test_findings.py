"""Which findings stop a port, and that the documentation says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.network.findings import REFUSED_IN, code_of, refusing
from shared.messages.network import NetworkMode
from tests.services.node_agent.network.plans import plan

DOCS = Path(__file__).parents[4] / "docs" / "networking.md"


@pytest.mark.parametrize(
    ("finding", "refused_in"),
    [
        (
            "address_taken: 10.81.1.10 is claimed by 02:00:00:00:00:99 on vmbr0",
            {"joined", "extend", "translate", "anchor"},
        ),
        ("source_filtered: packets from 10.81.1.10 do not come", {"translate", "anchor"}),
        ("path_black_hole: packets of more than 1400 bytes do not come", {"translate", "anchor"}),
        ("path_mtu: packets of more than 1500 bytes do not come", set()),
        ("bridge_netfilter: bridged frames go through rules", set()),
        ("something_new: nobody knows what it means", set()),
    ],
)
def test_a_finding_refuses_where_connections_would_be_lost(finding: str, refused_in: set[str]) -> None:
    carriers = (NetworkMode.JOINED, NetworkMode.EXTEND, NetworkMode.TRANSLATE, NetworkMode.ANCHOR)
    assert {mode.value for mode in carriers if refusing((finding,), plan(mode)) is not None} == refused_in


def test_the_one_that_refuses_is_named() -> None:
    found = ("bridge_netfilter: x", "source_filtered: y", "path_mtu: z")
    assert refusing(found, plan(NetworkMode.TRANSLATE)) == "source_filtered: y"
    assert code_of("source_filtered: y") == "source_filtered"


def test_the_documentation_has_each_finding() -> None:
    lines = DOCS.read_text("utf-8").splitlines()
    for code, modes in REFUSED_IN.items():
        (line,) = [each for each in lines if each.startswith(f"| `{code}` |")]
        assert ("refused" in line) == bool(modes), line
