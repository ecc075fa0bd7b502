"""Configuration of the routed lab's BGP daemons."""

import pytest

from deploy.labkit import routing_conf
from deploy.labkit.plan import LabPlan
from deploy.labkit.routing_conf import BIRD, FRR, bfd_ms, bird_conf, daemon, frr_confs, prefixes
from shared.messages.network import NetworkMode

_PLAN = LabPlan("lab", ("alpha", "beta"), NetworkMode.ANCHOR)


def test_the_lab_has_both_daemons() -> None:
    """One provider has FRR; all else is BIRD."""
    assert {host: daemon(_PLAN, host) for host in _PLAN.routers} == {
        "hub": BIRD,
        "alpha": FRR,
        "beta": BIRD,
        "gw-1": BIRD,
        "gw-2": BIRD,
    }


def test_a_gateways_death_is_noticed_within_a_second() -> None:
    """Interval times multiplier, for each gateway."""
    for gateway in _PLAN.gateways:
        interval, multiplier = bfd_ms(_PLAN, gateway)
        assert interval * multiplier < 1000


def test_transit_takes_from_each_what_is_its_own() -> None:
    """A provider's prefixes and host routes; of a gateway only the neutral prefix."""
    text = bird_conf(_PLAN, "hub")
    assert "if net ~ [ 10.81.1.0/24, 10.82.1.0/28 ] || net.len = 32 then" in text
    assert "if net ~ [ fd00:81:2::/64, fd00:82:2::/124 ] || net.len = 128 then" in text
    assert "if net ~ [ 198.51.100.0/24 ] then" in text
    for session in ("alpha_ipv4", "alpha_ipv6", "beta_ipv4", "beta_ipv6", "gw_1_ipv4", "gw_1_ipv6", "gw_2_ipv6"):
        assert f"protocol bgp {session} {{" in text


def test_a_provider_announces_what_its_node_agent_serves() -> None:
    """BIRD by table and protocol, FRR by metric, both families, and only single addresses."""
    bird = bird_conf(_PLAN, "beta")
    assert bird.count("kernel table 7070;") == 2
    assert "krt_source = 70 && net.len = 32" in bird
    assert "krt_source = 70 && net.len = 128" in bird
    frr = frr_confs(_PLAN, "alpha")
    assert list(frr) == ["zebra", "bfdd", "bgpd"]
    assert frr["bgpd"].count("match metric 17") == 2
    assert "prefix-list hosts6 permit ::/0 ge 128" in frr["bgpd"]


def test_routes_of_vms_that_have_moved_on_are_marked() -> None:
    """For a graceful shutdown (RFC 8326), which the transit router honours."""
    assert "krt_metric = 18 then bgp_community.add((65535, 0));" in bird_conf(_PLAN, "beta")
    bgpd = frr_confs(_PLAN, "alpha")["bgpd"]
    assert bgpd.count(" match metric 18\n set community graceful-shutdown additive") == 2
    assert "if (65535, 0) ~ bgp_community then bgp_local_pref = 0;" in bird_conf(_PLAN, "hub")


def test_a_gateway_announces_the_neutral_prefix_only() -> None:
    """It serves no host routes."""
    assert prefixes(_PLAN, "gw-1") == ["198.51.100.0/24", "2001:db8:a::/48"]
    text = bird_conf(_PLAN, "gw-1")
    assert "route 198.51.100.0/24 blackhole;" in text
    assert "kernel table" not in text


@pytest.mark.parametrize("kind", [BIRD, FRR])
def test_served_routes_have_a_place_for_each_daemon(kind: str) -> None:
    """A node agent is told table and metric."""
    assert routing_conf.SERVED[kind].metric == 17
