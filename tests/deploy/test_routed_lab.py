"""A routed lab, for real: its daemons, its guests as the client finds them, host routes, names, and its end."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update
import pytest

from deploy.labkit import GuestSpec, Lab, LabError, LabOptions, names, network, processes, routing
from deploy.labkit.plan import CLIENT, HUB
from deploy.labkit.processes import is_alive
from deploy.labkit.routing_conf import GOING_METRIC, HOLD_S, SERVED, daemon
from shared.messages.network import NetworkMode

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab with a neutral prefix, without vmport's own processes."""
    lab = Lab("routed")
    lab.down()
    try:
        lab.up(LabOptions(network=NetworkMode.ANCHOR, services=False))
        yield lab
    finally:
        lab.down()


def _until(holds: Callable[[], bool], within_s: float = 5.0) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, "not in time"
        time.sleep(0.01)
    return time.monotonic() - began


def _answers(lab: Lab, address: str) -> bool:
    ping = ["busybox", "ping", *(["-6"] if ":" in address else []), "-c", "1", "-W", "1", address]
    return lab.exec(CLIENT, ping).returncode == 0


def test_up_again_changes_nothing_and_another_network_is_refused(lab: Lab) -> None:
    """A second `up` keeps every process; a running lab keeps its networks."""
    before = {name: record for name, (record, _) in lab.processes().items()}
    assert {"bird-hub", "bird-beta", "zebra-alpha", "bgpd-alpha", "bird-gw-1", "knot-hub", "knot-beta"} <= set(before)
    lab.up(LabOptions(services=False))
    assert before == {name: record for name, (record, alive) in lab.processes().items() if alive}
    with pytest.raises(LabError, match="network anchor"):
        lab.up(LabOptions(network=NetworkMode.JOINED, services=False))


def test_all_sessions_stand(lab: Lab) -> None:
    """The transit router has both families of every provider and gateway, and status says so."""
    _until(lambda: set(routing.sessions(lab.plan, HUB).values()) == {"Established"}, within_s=15)
    assert len(routing.sessions(lab.plan, HUB)) == 8
    shown = {process["name"]: process for process in lab.status()["processes"]}
    assert shown["bird-hub"]["detail"] == "8 of 8 BGP sessions stand"


@pytest.mark.parametrize("provider", ["alpha", "beta"])
@pytest.mark.parametrize("address", ["198.51.100.77/32", "10.81.1.77/32", "2001:db8:a::77/128"])
def test_a_host_route_of_the_node_agent_is_announced_and_withdrawn(lab: Lab, provider: str, address: str) -> None:
    """The daemon of the provider redistributes it: table 7070 with BIRD, metric 17 with FRR."""
    served = SERVED[daemon(lab.plan, provider)]
    route = f"{address} dev wan0 proto 70 table {served.table} metric {served.metric}".split()
    inside = ["ip", "-n", lab.plan.namespace(provider), "route"]
    processes.run([*inside, "add", *route])
    try:
        _until(lambda: address in routing.kernel_routes(lab.plan, HUB), within_s=3)
    finally:
        processes.run([*inside, "del", *route])
    _until(lambda: address not in routing.kernel_routes(lab.plan, HUB), within_s=3)


@pytest.mark.parametrize("leaves", ["alpha", "beta"])
@pytest.mark.parametrize("address", ["10.81.1.78/32", "2001:db8:a::78/128"])
def test_a_marked_route_gives_way_before_it_is_withdrawn(lab: Lab, leaves: str, address: str) -> None:
    """Both providers announce a VM that is ported on; whoever marks its route carries nothing as soon as the other one
    announces it, and goes on being a way until then.
    """
    comes = "beta" if leaves == "alpha" else "alpha"
    made = [_served(lab, leaves, address, GOING_METRIC), _served(lab, comes, address)]
    try:
        processes.run([*made[0][0], "add", *made[0][1]])
        _until(lambda: _next_hop(lab, address) == _address_of(lab, leaves, address), within_s=5)
        processes.run([*made[1][0], "add", *made[1][1]])
        _until(lambda: _next_hop(lab, address) == _address_of(lab, comes, address), within_s=5)
        processes.run([*made[0][0], "del", *made[0][1]])
        time.sleep(3)
        assert _next_hop(lab, address) == _address_of(lab, comes, address)
    finally:
        for inside, route in made:
            with suppress(LabError):
                processes.run([*inside, "del", *route])
    _until(lambda: address not in routing.kernel_routes(lab.plan, HUB), within_s=5)


def _served(lab: Lab, provider: str, address: str, metric: int = 0) -> tuple[list[str], list[str]]:
    """The command, and the route as a node agent writes it."""
    served = SERVED[daemon(lab.plan, provider)]
    route = f"{address} dev wan0 proto 70 table {served.table} metric {metric or served.metric}"
    return ["ip", "-n", lab.plan.namespace(provider), "route"], route.split()


def _address_of(lab: Lab, provider: str, address: str) -> str:
    return lab.plan.wan_address6(provider) if ":" in address else lab.plan.wan_address(provider)


def _next_hop(lab: Lab, address: str) -> str:
    """Where the transit router sends what comes for an address; empty where it has no route of its own for it."""
    family = "-6" if ":" in address else "-4"
    command = ["ip", "-n", lab.plan.namespace(HUB), family, "-j", "route", "show", address.partition("/")[0]]
    found = json.loads(processes.run(command) or "[]")
    return str(found[0].get("gateway", "")) if found else ""


def test_the_client_reaches_a_neutral_guest_also_without_one_gateway(lab: Lab) -> None:
    """Over both families; the gateway that carries the traffic is cut off, and the other one takes over."""
    lab.guest_build()
    record = lab.guest_start(GuestSpec("g1", "beta", memory_mib=192))
    try:
        assert (record.address, record.address6) == ("198.51.100.10", "2001:db8:a::10")
        assert _answers(lab, record.address)
        assert _answers(lab, record.address6)
        with _socket_of_client(lab) as probe:
            probe.connect((record.address, 7))
            network.cut_uplink(lab.plan, "gw-1")
            try:
                assert _longest_silence_s(probe, 4.0) < 1.0
                assert _answers(lab, record.address6)
            finally:
                network.join_uplink(lab.plan, "gw-1")
    finally:
        lab.guest_remove("g1")


def _socket_of_client(lab: Lab) -> socket.socket:
    """A UDP socket in the client's host."""
    return processes.socket_in(lab.plan.namespace_path(CLIENT), socket.AF_INET, socket.SOCK_DGRAM)


def _longest_silence_s(probe: socket.socket, for_s: float) -> float:
    probe.settimeout(0.02)
    last = began = time.monotonic()
    longest = 0.0
    while (now := time.monotonic()) < began + for_s:
        try:
            probe.send(b"x")
            probe.recv(16)
        except OSError:
            continue
        longest, last = max(longest, now - last), now
    return max(longest, now - last)


def test_a_provider_that_is_cut_off_costs_the_others_nothing(lab: Lab) -> None:
    """Sessions of the transit router with everybody else stand, as seen a while later."""
    network.cut_uplink(lab.plan, "alpha")
    try:
        _until(lambda: routing.sessions(lab.plan, HUB)["alpha_ipv6"] != "Established", within_s=10)
        time.sleep(HOLD_S + 1)
        states = routing.sessions(lab.plan, HUB)
        assert {name for name, state in states.items() if state != "Established"} == {"alpha_ipv4", "alpha_ipv6"}
    finally:
        network.join_uplink(lab.plan, "alpha")
    _until(lambda: set(routing.sessions(lab.plan, HUB).values()) == {"Established"}, within_s=30)


def test_an_update_with_the_key_reaches_both_secondaries(lab: Lab) -> None:
    """Without the key it is refused; the secondaries answer after the primary has been killed."""
    key = names.update_key(lab.plan)
    ring = dns.tsigkeyring.from_text({key.name: key.secret})
    signed = dns.update.UpdateMessage(names.ZONE, keyring=ring, keyalgorithm=key.algorithm)
    signed.replace("vm1", names.TTL_S, "A", "198.51.100.10")
    unsigned = dns.update.UpdateMessage(names.ZONE)
    unsigned.replace("vm1", names.TTL_S, "A", "192.0.2.1")
    assert _ask(lab, HUB, unsigned).rcode() != dns.rcode.NOERROR
    assert _ask(lab, HUB, signed).rcode() == dns.rcode.NOERROR
    question = dns.message.make_query(f"vm1.{names.ZONE}", "A")
    for host in ("alpha", "beta"):
        _until(partial(_knows, lab, host, question))
    os.kill(lab.process("knot-hub").pid, signal.SIGKILL)
    found = [_ask(lab, host, question).answer[0][0].to_text() for host in ("alpha", "beta")]
    assert found == ["198.51.100.10"] * 2


def _knows(lab: Lab, host: str, question: dns.message.Message) -> bool:
    return bool(_ask(lab, host, question).answer)


def _ask(lab: Lab, host: str, message: dns.message.Message) -> dns.message.Message:
    """One message to a host's server, from the host itself."""
    with processes.socket_in(lab.plan.namespace_path(host), socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(3)
        return dns.query.udp(message, lab.plan.wan_address(host), timeout=3, sock=connection)


def test_a_guest_of_a_provider_is_reached_and_down_leaves_nothing() -> None:
    """IPv4 and IPv6 across the transit router; then the state file is lost, a daemon killed, and `down` removes all."""
    lab = Lab("routed2")
    lab.down()
    try:
        lab.up(LabOptions(network=NetworkMode.EXTEND, services=False))
        lab.guest_build()
        record = lab.guest_start(GuestSpec("g1", "alpha", memory_mib=192))
        assert (record.address, record.address6) == ("10.81.1.10", "fd00:81:1::10")
        assert _answers(lab, record.address)
        assert _answers(lab, record.address6)
        records = [found for found, _ in lab.processes().values()]
        os.kill(lab.process("bgpd-alpha").pid, signal.SIGKILL)
        lab.plan.state_file.unlink()
    finally:
        Lab("routed2").down()
    assert not [found for found in records if is_alive(found)]
    assert not list(Path("/run/netns").glob(f"{lab.plan.namespace_prefix}*"))
    assert not lab.plan.state_dir.exists()
    assert not lab.plan.run_dir.exists()
