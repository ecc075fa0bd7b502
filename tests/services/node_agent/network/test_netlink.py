"""Links, addresses, routes and neighbours in a network namespace of the test's own: made twice, undone twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.node_agent.network.netlink import Netlink, NetlinkError
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root
MAC = "02:00:00:00:00:01"


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


async def test_a_bridge_is_made_once_changed_and_removed() -> None:
    async with Netlink() as kernel:
        await kernel.add_bridge("vmp0", mac=None, mtu=1400)
        await kernel.add_bridge("vmp0", mac=MAC, mtu=1400)

        link = await kernel.link("vmp0")
        assert link is not None
        assert (link.kind, link.mac, link.mtu, link.up) == ("bridge", MAC, 1400, True)
        await kernel.delete_link("vmp0")
        await kernel.delete_link("vmp0")
        assert await kernel.link("vmp0") is None


async def test_a_device_of_another_kind_is_left_alone() -> None:
    async with Netlink() as kernel:
        with pytest.raises(NetlinkError, match="is no bridge"):
            await kernel.add_bridge("lo", mac=None, mtu=1500)


@pytest.mark.parametrize(("address", "prefix"), [("10.81.1.10", "10.81.1.10/32"), ("fd00:81::10", "fd00:81::10/128")])
async def test_addresses_and_routes(address: str, prefix: str) -> None:
    async with Netlink() as kernel:
        await kernel.add_bridge("vmp0", mac=MAC, mtu=1500)
        for _ in range(2):
            await kernel.add_address("vmp0", "10.81.1.1" if "." in address else "fd00:81::1")
            await kernel.replace_route(prefix, device="vmp0", table=7070)

        (route,) = await kernel.routes(7070)
        assert (route.destination, route.device, route.protocol) == (prefix, "vmp0", 70)
        for _ in range(2):
            await kernel.delete_route(prefix, table=7070)
            await kernel.delete_address("vmp0", "10.81.1.1" if "." in address else "fd00:81::1")
        assert await kernel.routes(7070) == ()


@pytest.mark.parametrize("address", ["10.81.1.10", "fd00:81::10"])
async def test_this_host_answers_for_an_address_until_it_is_told_not_to(address: str) -> None:
    async with Netlink() as kernel:
        await kernel.add_bridge("vmp0", mac=MAC, mtu=1500)
        for _ in range(2):
            await kernel.add_proxy("vmp0", address)
        assert [entry.address for entry in await kernel.proxies("vmp0")] == [address]
        for _ in range(2):
            await kernel.delete_proxy("vmp0", address)
        assert await kernel.proxies("vmp0") == ()


async def test_a_neighbour_is_known_without_asking() -> None:
    async with Netlink() as kernel:
        await kernel.add_bridge("vmp0", mac=MAC, mtu=1500)
        for _ in range(2):
            await kernel.set_neighbour("vmp0", "10.81.1.10", "52:54:00:00:00:10")
        (entry,) = await kernel.neighbours("vmp0")
        assert (entry.address, entry.mac) == ("10.81.1.10", "52:54:00:00:00:10")
        for _ in range(2):
            await kernel.delete_neighbour("vmp0", "10.81.1.10")
        assert await kernel.neighbours("vmp0") == ()


async def test_what_is_not_there_is_named() -> None:
    async with Netlink() as kernel:
        with pytest.raises(NetlinkError, match="no device vmp9"):
            await kernel.add_address("vmp9", "10.0.0.1")
        await kernel.delete_address("vmp9", "10.0.0.1")
        await kernel.delete_proxy("vmp9", "10.0.0.1")
        assert await kernel.neighbours("vmp9") == ()
