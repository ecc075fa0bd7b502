"""What libvirt tells of addresses, by MAC. The calls themselves are in the contract of the hypervisor port."""

from __future__ import annotations

from services.node_agent.hypervisor.libvirt_cards import addresses_by_mac


def test_addresses_by_mac() -> None:
    """As an agent tells them: two interfaces of one MAC, one without addresses, loopback without a MAC that counts."""
    told = {
        "lo": {"hwaddr": "00:00:00:00:00:00", "addrs": [{"addr": "127.0.0.1", "prefix": 8, "type": 0}]},
        "eth0": {"hwaddr": "52:54:00:AA:00:10", "addrs": [{"addr": "10.81.1.10", "prefix": 24, "type": 0}]},
        "eth0.7": {"hwaddr": "52:54:00:aa:00:10", "addrs": [{"addr": "10.81.7.10"}, {"addr": "10.81.1.10"}]},
        "eth1": {"hwaddr": "52:54:00:aa:00:11", "addrs": None},
        "tun0": {"hwaddr": None, "addrs": [{"addr": "10.9.0.1"}]},
    }
    found = addresses_by_mac(told)
    assert found["52:54:00:aa:00:10"] == ("10.81.1.10", "10.81.7.10")
    assert found["52:54:00:aa:00:11"] == ()
    assert "" not in found
    assert addresses_by_mac({}) == {}
