"""Kernel settings of the hosts of a routed lab."""

from deploy.labkit.plan import LabPlan
from deploy.labkit.routed_network import sysctls
from shared.messages.network import NetworkMode

_PLAN = LabPlan("lab", ("alpha", "beta"), NetworkMode.ANCHOR)


def test_routers_forward_both_families_and_others_do_not() -> None:
    """The hub, providers and gateways are routers; tenant and client are not."""
    forwarding = [host for host in _PLAN.hosts if sysctls(_PLAN, host).get("net.ipv4.ip_forward")]
    assert forwarding == ["hub", "alpha", "beta", "gw-1", "gw-2"]
    assert all(sysctls(_PLAN, host)["net.ipv6.conf.all.forwarding"] == 1 for host in forwarding)


def test_nowhere_do_rules_for_routed_packets_see_bridged_frames() -> None:
    """Nor does a reverse-path filter drop what comes by another way."""
    for host in _PLAN.hosts:
        assert sysctls(_PLAN, host)["net.bridge.bridge-nf-call-iptables"] == 0
        assert sysctls(_PLAN, host)["net.ipv4.conf.all.rp_filter"] == 0
