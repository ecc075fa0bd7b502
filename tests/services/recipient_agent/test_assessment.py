"""The one judgement over platform, room, quota, collisions and price."""

from __future__ import annotations

from typing import Any

import pytest

from services.recipient_agent.assessment import Suitable, Terms, assess
from services.recipient_agent.capacity import GIB, Nodes, Quota
from services.recipient_agent.network_lines import TAKEN_AS_ONE
from services.recipient_agent.network_map import NetworkMap
from services.recipient_agent.testing import (
    MAC,
    NOW,
    SMALL,
    VERSIONS,
    make_capacity,
    make_heartbeat,
    make_places,
    make_platform,
    make_summary,
    make_terms,
    make_vm,
)
from shared.messages.base import Refusal
from shared.messages.nodes import NodeHeartbeat
from shared.messages.quote_lines import Part
from shared.messages.vm import CpuFacts, CpuMode, Need


def judge(terms: Terms | None = None, vm: dict[str, Any] | None = None, **beats: NodeHeartbeat) -> Any:
    """The judgement; nodes by name, with ``_`` for ``-``."""
    nodes = Nodes()
    for name, beat in beats.items():
        nodes = nodes.heard(name.replace("_", "-"), beat, NOW)
    found = assess(
        make_vm(**(vm or {})),
        VERSIONS,
        tenant="acme",
        nodes=nodes,
        held=[],
        terms=terms or make_terms(),
        now=NOW,
        cpu_answers=dict.fromkeys(nodes.views, ()),
    )
    return (found.node, found.instance_type) if isinstance(found, Suitable) else [refusal.code for refusal in found]


def test_a_suitable_vm_gets_a_node_and_a_price() -> None:
    """The node with the most free memory of those that can run it."""
    roomy = make_heartbeat(platform=make_platform(machines=()))
    tight = make_heartbeat(capacity=make_capacity(memory_free_bytes=2 * GIB))

    assert judge(beta_1=tight, beta_2=roomy, beta_3=make_heartbeat()) == ("beta-3", SMALL)
    assert judge(beta_1=tight, beta_2=roomy) == ("beta-1", SMALL)


@pytest.mark.parametrize(
    ("terms", "vm", "beat", "codes"),
    [
        (make_terms(quota_total=Quota(vcpus=1)), {}, make_heartbeat(), []),
        (make_terms(quota_total=Quota(memory_mib=1)), {}, make_heartbeat(), ["quota_total"]),
        (make_terms(quota_per_tenant=Quota(memory_mib=1)), {}, make_heartbeat(), ["quota_tenant"]),
        (make_terms(instance_types=()), {}, make_heartbeat(), ["no_instance_type"]),
        (make_terms(), {"blockers": ("x",)}, make_heartbeat(), ["vm_blocked"]),
        (
            make_terms(),
            {"needs": (Need(kind="hugepages", value="2048 KiB"),)},
            make_heartbeat(),
            ["huge_pages_short"],
        ),
        (make_terms(), {}, make_heartbeat(vms=(make_summary(macs=(MAC,)),)), ["mac_collision"]),
        (make_terms(), {}, make_heartbeat(healthy=False), ["node_unhealthy"]),
        (make_terms(), {"blockers": ("x",)}, make_heartbeat(healthy=False), ["vm_blocked", "node_unhealthy"]),
    ],
)
def test_every_kind_of_rule_has_its_say(
    terms: Terms, vm: dict[str, Any], beat: NodeHeartbeat, codes: list[str]
) -> None:
    """Rules of the provider as a whole first, then those of each node; all findings at once."""
    found = judge(terms, vm, beta_1=beat)

    assert found == (codes or ("beta-1", SMALL))


def test_a_node_may_have_bridges_of_its_own() -> None:
    """An override decides which node can take the VM."""
    elsewhere = make_places(bridges=NetworkMap({"br-donor": "br9"}))
    terms = make_terms(places_of={"beta-1": elsewhere})

    assert judge(terms, beta_1=make_heartbeat()) == ["bridge_missing"]
    assert judge(terms, beta_1=make_heartbeat(), beta_2=make_heartbeat()) == ("beta-2", SMALL)


def test_a_node_whose_libvirt_says_no_is_passed_over() -> None:
    """The roomiest has not the CPU's features; the next one has."""
    nodes = Nodes().heard("beta-1", make_heartbeat(), NOW)
    nodes = nodes.heard("beta-2", make_heartbeat(capacity=make_capacity(memory_free_bytes=2 * GIB)), NOW)
    vm = make_vm(cpu=CpuFacts(mode=CpuMode.CUSTOM, model="EPYC"))
    no = Refusal(code="cpu_incompatible", rule="r", evidence="avx512f")

    def codes_or_node(**answers: tuple[Refusal, ...]) -> object:
        by_node = {name.replace("_", "-"): answer for name, answer in answers.items()}
        found = assess(
            vm, VERSIONS, tenant="acme", nodes=nodes, held=[], terms=make_terms(), now=NOW, cpu_answers=by_node
        )
        return found.node if isinstance(found, Suitable) else [refusal.code for refusal in found]

    assert codes_or_node(beta_1=(no,), beta_2=()) == "beta-2"
    assert codes_or_node(beta_1=(no,)) == ["cpu_incompatible", "cpu_not_compared"]


def test_what_the_tenant_requires_decides_where() -> None:
    """Here the bridge is renamed, which this tenant does not want."""
    nodes = Nodes().heard("beta-1", make_heartbeat(), NOW)

    def judged(*require: Part) -> object:
        found = assess(
            make_vm(cpu=CpuFacts(), made_anew=()),
            VERSIONS,
            tenant="acme",
            nodes=nodes,
            held=[],
            terms=make_terms(),
            now=NOW,
            require=require,
        )
        return [str(line) for line in found.lines.made_anew] if isinstance(found, Suitable) else found[0].code

    assert judged(Part.PINNING) == [
        f"bridge: network card {MAC}: bridge br-donor becomes bridge vmbr0",
        f"network: {TAKEN_AS_ONE}",
    ]
    assert judged(Part.BRIDGE) == "requirement_not_met"


def test_a_provider_with_many_nodes_names_a_bounded_number_of_findings() -> None:
    """Refusals fit into a message."""
    nodes = Nodes()
    for number in range(200):
        nodes = nodes.heard(f"n{number}", make_heartbeat(healthy=False), NOW)

    found = assess(make_vm(), VERSIONS, tenant="acme", nodes=nodes, held=[], terms=make_terms(), now=NOW)

    assert isinstance(found, tuple)
    assert all(isinstance(refusal, Refusal) for refusal in found)
    assert len(found) == 50
