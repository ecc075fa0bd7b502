"""A guest's router speaks on the card's bridge in a real kernel: by itself, when asked, and when it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from services.node_agent.network.frames import FrameError, address_bytes, mac_bytes
from services.node_agent.network.guest_router import GuestRouters
from services.node_agent.network.icmpv6 import (
    ICMPV6,
    internet_checksum,
    link_local,
    parse_neighbour,
    parse_router_advertisement,
)
from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.maker import StepMaker
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, GATEWAY_MAC, GUEST_MAC, PORT, agreement, plan
from tests.services.node_agent.network.test_firewall import command
from tests.services.node_agent.network.test_router_frames import NEIGHBOUR, asks
from tests.support.extension_pair import eventually
from tests.support.own_network import needs_root, own_network

GUEST, ROUTER = mac_bytes(GUEST_MAC), mac_bytes(GATEWAY_MAC)
ARRIVED = NetworkRecord(side=Side.INBOUND, agreement=agreement(plan(announce=True)), there=True)


def solicitation() -> bytes:
    """A guest asks for its router."""
    source, group = link_local(GUEST), address_bytes("ff02::2")
    body = struct.pack(">BBHI", 133, 0, 0, 0)
    checksum = internet_checksum(source + group + struct.pack(">II", len(body), ICMPV6) + body)
    head = struct.pack(">IHBB16s16s", 6 << 28, len(body), ICMPV6, 255, source, group)
    return b"\x33\x33\0\0\0\x02" + GUEST + b"\x86\xdd" + head + body[:2] + checksum.to_bytes(2) + body[4:]


@pytest.fixture
async def guest() -> AsyncIterator[socket.socket]:
    """The guest's end of a cable into its bridge, where this host is the gateway."""
    with own_network():
        await StepMaker().make(ARRIVED.wanted)
        for words in (
            f"link add guest0 address {GUEST_MAC} type veth peer name tap0",
            f"link set tap0 master {BRIDGE} up",
            "link set guest0 up",
        ):
            command(f"ip {words}")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK) as wire:
            wire.bind(("guest0", 0x86DD))
            yield wire


async def lifetime_s(wire: socket.socket) -> int:
    """Of the next advertisement that comes from the router."""
    async with asyncio.timeout(5):
        while True:
            frame = await asyncio.get_running_loop().sock_recv(wire, 2000)
            try:
                return parse_router_advertisement(frame).lifetime_s
            except FrameError:
                continue


@needs_root
async def test_it_advertises_answers_and_takes_leave(guest: socket.socket) -> None:
    routers = GuestRouters()
    for _ in range(2):  # it is told of every change
        routers.follow(ARRIVED)
    assert await lifetime_s(guest) > 0

    guest.send(solicitation())
    assert await lifetime_s(guest) > 0

    guest.send(asks(NEIGHBOUR))
    async with asyncio.timeout(5):
        while True:
            frame = await asyncio.get_running_loop().sock_recv(guest, 2000)
            try:
                said = parse_neighbour(frame)
            except FrameError:
                continue
            if said.advertises and said.target == address_bytes(NEIGHBOUR):
                break
    assert (said.link, said.source) == (ROUTER, ROUTER)

    routers.cease(PORT)
    assert await lifetime_s(guest) == 0
    routers.cease(PORT)
    await routers.close()


@needs_root
async def test_it_says_it_again_and_again(guest: socket.socket) -> None:
    routers = GuestRouters(every_s=0.01)
    routers.follow(ARRIVED)
    for _ in range(3):
        assert await lifetime_s(guest) > 0
    routers.follow(ARRIVED.model_copy(update={"agreement": agreement(plan())}))
    while await lifetime_s(guest):
        continue
    await routers.close()


async def test_a_bridge_that_comes_late_is_spoken_on_then() -> None:
    heard: list[str] = []

    def hear(_: str) -> socket.socket:
        if not heard:
            heard.append("none")
            raise OSError(19, "No such device")
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(device: str, _: object) -> None:
        heard.append(device)

    routers = GuestRouters(send, hear, every_s=60, again_s=0.01)
    routers.follow(ARRIVED)
    await eventually(lambda: BRIDGE in heard)
    await routers.close()


async def test_who_is_no_gateway_says_nothing() -> None:
    """While the donor's network is extended, its gateway is the guest's."""
    sent: list[str] = []
    routers = GuestRouters(
        lambda device, _: sent.append(device), lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    )
    for network in (plan(), plan(NetworkMode.JOINED)):
        routers.follow(NetworkRecord(side=Side.INBOUND, agreement=agreement(network), there=True))
    await asyncio.sleep(0.02)
    routers.cease(PORT)
    await routers.close()
    assert sent == []
