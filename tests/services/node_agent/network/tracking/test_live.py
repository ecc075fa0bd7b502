"""A live TCP connection behind a stateful firewall goes on at a host whose kernel has its entry, and at no other."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from services.node_agent.network.tracking.table import ConnectionTable
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.network.tracking.values import Changes
from tests.services.node_agent.network.plans import PORT
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root
FIREWALL = b"""
table inet firewall {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established accept
    iifname "client" tcp dport 22 tcp flags syn accept
    ip6 nexthdr icmpv6 accept
  }
}
"""
FAMILIES = {
    socket.AF_INET: ("10.81.1.10", "10.81.1.1", "203.0.113.5", "203.0.113.1", 24),
    socket.AF_INET6: ("fd00:81:1::10", "fd00:81:1::1", "2001:db8:c::5", "2001:db8:c::1", 64),
}


def run(*command: str, **more: object) -> None:
    """One command."""
    subprocess.run(command, check=True, timeout=10, **more)  # type: ignore[call-overload]  # more is of its own


class Host:
    """A network namespace of its own behind the router of this test."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        router = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, router)
        stack.enter_context(self._kept())
        with self.entered():
            run("ip", "link", "set", "lo", "up")
        path = f"/proc/{os.getpid()}/fd/{self.namespace}"
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", path)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        with own_network():
            self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield
        finally:
            os.close(self.namespace)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Meanwhile this thread is there."""
        libc = ctypes.CDLL(None, use_errno=True)
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        assert not libc.setns(self.namespace, 0)
        try:
            yield
        finally:
            assert not libc.setns(outside, 0)
            os.close(outside)


@contextmanager
def routed(family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from a client to a guest, through a router with a stateful firewall: this test's namespace."""
    guest_address, guest_gateway, client_address, client_gateway, bits = FAMILIES[family]
    with own_network(), ExitStack() as stack:
        hosts = {name: Host(name, stack) for name in ("guest", "client")}
        for kind in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path(f"/proc/sys/net/{kind}").write_text("1")
        sides = (("guest", guest_address, guest_gateway), ("client", client_address, client_gateway))
        for name, address, gateway in sides:
            run("ip", "address", "add", f"{gateway}/{bits}", "dev", name, *(["nodad"] if bits == 64 else []))
            run("ip", "link", "set", name, "up")
            with hosts[name].entered():
                run("ip", "address", "add", f"{address}/{bits}", "dev", "eth0", *(["nodad"] if bits == 64 else []))
                run("ip", "link", "set", "eth0", "up")
                run("ip", "route", "add", "default", "via", gateway)
        run("nft", "-f", "-", input=FIREWALL)
        with hosts["guest"].entered():
            listener = stack.enter_context(socket.socket(family))
        with hosts["client"].entered():
            client = stack.enter_context(socket.socket(family))
        listener.bind((guest_address, 22))
        listener.listen()
        for each in (listener, client):
            each.settimeout(10)
        client.connect((guest_address, 22))
        guest = stack.enter_context(listener.accept()[0])
        guest.settimeout(10)
        yield client, guest


def passes(sender: socket.socket, receiver: socket.socket, text: bytes, *, within_s: float) -> bool:
    """Whether what is sent arrives in time."""
    sender.send(text)
    receiver.settimeout(within_s)
    try:
        return receiver.recv(100) == text
    except TimeoutError:
        return False


@pytest.mark.parametrize("family", list(FAMILIES))
async def test_a_live_connection_goes_on_only_where_its_entry_was_carried(
    family: socket.AddressFamily, tmp_path: Path
) -> None:
    """The router loses its table: as a host has none to which the VM comes. Then it gets what the donor's had."""
    guest_address = FAMILIES[family][0]
    table, taken = ConnectionTable(), TakenConnections(tmp_path)
    with routed(family) as (client, guest):
        assert passes(client, guest, b"before", within_s=5)
        assert passes(guest, client, b"before", within_s=5)
        found = await taken.read([guest_address])
        assert [each.state for each in found.connections] == [3]

        await table.delete([each.key for each in found.connections])
        assert not passes(client, guest, b"dropped", within_s=0.5)

        addresses = frozenset({guest_address})
        answer = await taken.take(PORT, addresses, Changes(found.connections, ()))
        assert (answer.new + answer.there, answer.problem) == (1, "")
        guest.settimeout(10)
        assert guest.recv(100) == b"dropped"
        assert passes(guest, client, b"after", within_s=5)
