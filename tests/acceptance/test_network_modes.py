"""Ports between providers that share no network: the guest keeps its addresses and its connections, in each mode.

One routed lab for all. What is looked at: the client outside both providers reaches the guest over IPv4 and IPv6
before and after, its connections live on, and neither host has anything of vmport's left once the guest is home.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from deploy.labkit.guests import ECHO_PORT, GuestSpec
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.plan import CLIENT
from deploy.labkit.port_run import run_port
from deploy.labkit.services import config_file
from deploy.labkit.state import GuestRecord
from shared.messages.network import NetworkMode
from tests.acceptance.conftest import Tenant, alone

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

LAB_NAME = os.environ.get("VMPORT_ACCEPTANCE_LAB", "acceptance") + "net"
PROVIDERS = ("alpha", "beta")
MODES = {
    "VMPORT_NETWORK__MODES": '["joined", "extend", "translate", "announce"]',
    "VMPORT_NETWORK__WITHDRAW_AFTER_S": "5",
}
SETTLED_WITHIN_S = 60.0
ASK = f"""
import socket, sys
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.5)
        for _ in range(20):
            probe.sendto(b"there?", (address, {ECHO_PORT}))
            try:
                probe.recv(100)
                break
            except TimeoutError:
                continue
        else:
            sys.exit(f"{{address}} does not answer")
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Providers with networks of their own, a transit router and a client outside; nodes that know several modes."""
    lab = Lab(LAB_NAME)
    with alone(lab):
        lab.down()
        try:
            lab.up(LabOptions(network=NetworkMode.ANNOUNCE))
            lab.guest_build()
            for provider in PROVIDERS:
                lab.stop_service(f"node-{provider}")
                lab.start_service(f"node-{provider}", MODES)
            yield lab
        finally:
            lab.down()


@pytest.fixture(scope="module")
def guest(lab: Lab) -> GuestRecord:
    """One guest for all tests: each leaves it at home."""
    return start_talker(lab)


def start_talker(lab: Lab) -> GuestRecord:
    """A guest at alpha that the client speaks to."""
    record = lab.guest_start(GuestSpec(name="talker", provider="alpha", memory_mib=128))
    Tenant(lab).wait_until_known(record, "alpha")
    return record


def answers(lab: Lab, guest: GuestRecord) -> None:
    """The client reaches the guest by both addresses."""
    asked = lab.exec(CLIENT, ["python3", "-c", ASK, guest.address, guest.address6])
    assert asked.returncode == 0, asked.stderr


def left(lab: Lab, provider: str) -> str:
    """What `vmport-node net list` finds of vmport's in a host; empty where there is nothing."""
    config = str(config_file(lab.plan, f"node-{provider}"))
    told = lab.exec(provider, ["vmport-node", "net", "--config", config, "list", "--json"])
    assert told.stdout, told.stderr
    found = json.loads(told.stdout)
    return "" if not any(found.values()) else told.stdout


def wait_until_clean(lab: Lab, provider: str) -> None:
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while found := left(lab, provider):
        assert time.monotonic() < deadline, f"left at {provider} after {SETTLED_WITHIN_S:.0f} s: {found}"
        time.sleep(0.5)


def bring_home(lab: Lab, guest: GuestRecord) -> None:
    """The guest goes back to its own provider, and neither host keeps anything of vmport's."""
    run = run_port(lab, guest.name, to="alpha")
    assert run.outcome == "completed", run.result
    answers(lab, guest)
    for provider in PROVIDERS:
        wait_until_clean(lab, provider)


def test_a_cancelled_port_leaves_nothing(lab: Lab, guest: GuestRecord) -> None:
    """While its extension is open: the guest stays reachable, and both hosts are as before. The first of all tests: a
    provider that knows the guest's contents would have it before it can be cancelled.
    """
    tenant = Tenant(lab)
    tenant.wait_until_known(guest, "alpha")
    lab.up(LabOptions(link="10mbit"))
    try:
        port_id = tenant.create(guest, "beta", "--network-mode", "extend")
        tenant.wait_for(port_id, "an extension", lambda _: left(lab, "beta") != "" and left(lab, "alpha") != "")
        tenant.run("port", "cancel", port_id)
        tenant.wait_for_end(port_id)
    finally:
        lab.up(LabOptions(link="none"))
    answers(lab, guest)
    for provider in PROVIDERS:
        wait_until_clean(lab, provider)


@pytest.mark.parametrize("mode", [NetworkMode.EXTEND, NetworkMode.TRANSLATE, NetworkMode.ANNOUNCE])
def test_addresses_and_connections_are_kept_there_and_back(lab: Lab, guest: GuestRecord, mode: NetworkMode) -> None:
    answers(lab, guest)

    run = run_port(lab, guest.name, to="beta", options=("--network-mode", mode.value), connections=True)

    assert run.outcome == "completed", run.result
    assert run.connections is not None
    assert (run.connections.connections, run.connections.kept) == (50, 50), run.connections
    for family, echoes in run.connections.udp.items():
        assert echoes.answered_again_at is not None, family
    answers(lab, guest)
    bring_home(lab, guest)


def test_an_extension_comes_back_after_both_agents_are_killed(lab: Lab, guest: GuestRecord) -> None:
    run = run_port(lab, guest.name, to="beta", options=("--network-mode", "extend"))
    assert run.outcome == "completed", run.result
    for provider in PROVIDERS:
        lab.stop_service(f"node-{provider}", kill=True)
    for provider in PROVIDERS:
        lab.start_service(f"node-{provider}", MODES)
    answers(lab, guest)
    Tenant(lab).wait_until_known(guest, "beta")
    bring_home(lab, guest)
