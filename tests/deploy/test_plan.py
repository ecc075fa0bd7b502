"""Names, addresses and paths of a lab."""

import pytest

from deploy.labkit.plan import LabPlan
from shared.messages.network import NetworkMode


def test_hosts_have_the_documented_addresses() -> None:
    """The WAN addresses are those that the documentation names."""
    plan = LabPlan("lab", ("alpha", "beta", "gamma"))
    found = {host: plan.wan_address(host) for host in ("hub", *plan.wan_hosts)}
    assert found == {
        "hub": "10.77.0.1",
        "tenant": "10.77.0.2",
        "alpha": "10.77.0.11",
        "beta": "10.77.0.12",
        "gamma": "10.77.0.13",
    }


def test_each_provider_has_a_vlan_of_its_own() -> None:
    """So that a guest's tag must be mapped when it moves."""
    plan = LabPlan("lab", ("alpha", "beta", "gamma"))
    assert [plan.vlan(provider) for provider in plan.providers] == [42, 142, 242]


def test_only_an_anchor_lab_has_gateways_and_only_a_routed_one_routers() -> None:
    """Gateways have uplinks and addresses of their own on the WAN."""
    joined, extend, anchor = (LabPlan("lab", network=NetworkMode(mode)) for mode in ("joined", "extend", "anchor"))
    assert (joined.routers, joined.gateways, joined.wan_mtu) == ((), (), 1550)
    assert (extend.routers, extend.gateways, extend.wan_mtu) == (("hub", "alpha", "beta"), (), 1500)
    assert anchor.hosts == ("hub", "tenant", "alpha", "beta", "gw-1", "gw-2", "client")
    found = [anchor.wan_address(host) for host in anchor.wan_hosts]
    assert found == ["10.77.0.2", "10.77.0.11", "10.77.0.12", "10.77.0.3", "10.77.0.4"]
    assert anchor.wan_address6("beta") == "fd00:77::12"


def test_no_lab_owns_the_namespaces_of_another() -> None:
    """A lab's namespace prefix never matches a namespace of a lab with a longer name."""
    assert not LabPlan("ab").namespace("hub").startswith(LabPlan("a").namespace_prefix)


@pytest.mark.parametrize("name", ["", "a-b", "A", "x" * 21, "../etc", "a b"])
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    """Lab names are short and of letters and digits only."""
    with pytest.raises(ValueError, match="lab name"):
        LabPlan(name)


@pytest.mark.parametrize("providers", [("alpha",), ("alpha", "alpha"), ("hub", "alpha"), ("alpha", "longer-than-11")])
def test_providers_are_two_different_ones_that_fit_an_interface_name(providers: tuple[str, ...]) -> None:
    """Anything else is refused when the plan is made."""
    with pytest.raises(ValueError, match="provider"):
        LabPlan("lab", providers)


def test_unix_socket_paths_fit_the_kernel() -> None:
    """The longest names still give a socket path below 108 bytes, a port's sockets included."""
    plan = LabPlan("x" * 20, ("a" * 11, "b" * 11))
    port = plan.host_run_dir("a" * 11) / "vmport" / "00000000-0000-0000-0000-000000000000" / "driver.sock"
    assert len(str(port)) < 108
    assert len(str(plan.libvirt_socket("a" * 11))) < 108
