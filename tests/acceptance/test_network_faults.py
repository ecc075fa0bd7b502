"""What goes wrong around an extension: no direct route between the hosts, and a link that is away for two minutes.

`tests/acceptance/test_network_modes.py` has what goes right. Here everything is looked at before and after: when the
guest is home both hosts' networks are as they were, by devices, addresses, routes, rules, neighbours and nftables.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.labkit import processes
from deploy.labkit.connection_report import Report
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.port_run import connection_client, run_port
from deploy.labkit.services import DIRECT_PORT
from deploy.labkit.state import GuestRecord
from shared.messages.network import NetworkMode
from tests.acceptance.conftest import Tenant, alone
from tests.acceptance.test_network_modes import MODES, PROVIDERS, answers, start_talker, wait_until_clean
from tests.support.link_cut import cut, mend
from tests.support.network_shot import differences, network_shot

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(1500)]

LAB_NAME = os.environ.get("VMPORT_ACCEPTANCE_LAB", "acceptance") + "faults"
OUTAGE_S = 120.0
BACK_WITHIN_S = 90.0
SAME_WITHIN_S = 30.0
ROUTING_DAEMONS = frozenset({"bird", "zebra", "bfdd", "bgpd"})
GUESTS_DEVICE = '"vnet'
"""Of QEMU's; another one each time that the guest comes."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Providers with networks of their own, whose nodes know each other over RabbitMQ only."""
    lab = Lab(LAB_NAME)
    with alone(lab):
        lab.down()
        try:
            lab.up(LabOptions(network=NetworkMode.ANNOUNCE))
            lab.guest_build()
            for provider, other in zip(PROVIDERS, reversed(PROVIDERS), strict=True):
                # The guest's own port is the same one.
                rule = ["to", lab.plan.wan_address(other), "ipproto", "tcp", "dport", str(DIRECT_PORT), "unreachable"]
                lab.stop_service(f"node-{provider}")
                lab.start_service(f"node-{provider}", MODES)
                done = lab.exec(provider, ["ip", "rule", "add", *rule])
                assert done.returncode == 0, done.stderr
            yield lab
        finally:
            lab.down()


@pytest.fixture(scope="module")
def guest(lab: Lab) -> GuestRecord:
    """One guest for all tests: each leaves it at home."""
    return start_talker(lab)


@pytest.fixture
def untouched(lab: Lab, guest: GuestRecord) -> Iterator[None]:
    """The guest goes home after the test, and both hosts' networks are as before it."""
    answers(lab, guest)
    before = {provider: shot(lab, provider) for provider in PROVIDERS}
    yield
    run = run_port(lab, guest.name, to="alpha")
    assert run.outcome == "completed", run.result
    answers(lab, guest)
    for provider in PROVIDERS:
        wait_until_clean(lab, provider)
        deadline = time.monotonic() + SAME_WITHIN_S
        while left := _others(differences(before[provider], shot(lab, provider))):
            assert time.monotonic() < deadline, left
            time.sleep(1)


def shot(lab: Lab, provider: str) -> dict[str, Any]:
    return network_shot(lab.plan.namespace(provider))


def _others(found: list[str]) -> list[str]:
    return [line for line in found if GUESTS_DEVICE not in line and "/vnet" not in line]


def assert_whole(fared: Report | None) -> None:
    assert fared is not None
    assert (fared.connections, fared.kept) == (50, 50), fared
    for family, echoes in fared.udp.items():
        assert echoes.answered_again_at is not None, (family, echoes)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("mode", [NetworkMode.EXTEND, NetworkMode.ANNOUNCE])
def test_connections_live_on_over_the_relay_alone(lab: Lab, guest: GuestRecord, mode: NetworkMode) -> None:
    """50 of 50 there; home by its own segment."""
    run = run_port(lab, guest.name, to="beta", options=("--network-mode", mode.value), connections=True)
    assert run.outcome == "completed", run.result
    assert_whole(run.connections)
    answers(lab, guest)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("host", PROVIDERS)
def test_connections_outlive_a_link_that_is_away_for_two_minutes(lab: Lab, guest: GuestRecord, host: str) -> None:
    """While the guest is served over its extension, whichever side is cut off. TCP itself waits for longer."""
    run = run_port(lab, guest.name, to="beta", options=("--network-mode", "extend"))
    assert run.outcome == "completed", run.result
    with connection_client(lab, guest) as finish:
        cut(lab, host)
        try:
            time.sleep(OUTAGE_S)
        finally:
            mend(lab, host)
        _wait_for_answers(lab, guest)
        fared = finish()
    assert_whole(fared)
    Tenant(lab).wait_until_known(guest, "beta")


@pytest.mark.usefixtures("untouched")
def test_a_recipient_whose_routing_daemon_is_down_is_named_and_the_extension_goes_on(
    lab: Lab, guest: GuestRecord
) -> None:
    """A daemon that forgets to announce looks the same. When it is back, packets come by the recipient's uplink."""
    tenant = Tenant(lab)
    for name in lab.processes():
        program, _, host = name.partition("-")
        if host == "beta" and program in ROUTING_DAEMONS:
            processes.send_signal(lab.process(name), signal.SIGKILL)
    try:
        run = run_port(lab, guest.name, to="beta", options=("--network-mode", "announce"), connections=True)
        assert run.outcome == "completed", run.result
        assert_whole(run.connections)
        _wait_for_report(tenant, run.port_id, "not_announced")
        answers(lab, guest)
    finally:
        lab.up()
    deadline = time.monotonic() + BACK_WITHIN_S
    while "announced" not in _reports(tenant, run.port_id):
        assert time.monotonic() < deadline, "not announced although the daemon is back"
        answers(lab, guest)
        time.sleep(1)


def _reports(tenant: Tenant, port_id: str) -> list[str]:
    """What the nodes said of the port's network, as `STATE: DETAIL`."""
    shown = tenant.ask("port", "show", port_id)
    return [event.get("detail", "") for event in shown["events"] if event["type"] == "NetworkReported"]


def _wait_for_report(tenant: Tenant, port_id: str, text: str) -> None:
    deadline = time.monotonic() + BACK_WITHIN_S
    while not any(text in each for each in _reports(tenant, port_id)):
        assert time.monotonic() < deadline, f"no node reported {text}: {_reports(tenant, port_id)}"
        time.sleep(1)


@pytest.mark.usefixtures("untouched")
def test_a_vm_that_needs_its_donors_help_is_not_ported_on(lab: Lab, guest: GuestRecord) -> None:
    """By name, before anything moves; here the third provider is the first one, by another way than its own segment."""
    run = run_port(lab, guest.name, to="beta", options=("--network-mode", "extend"))
    assert run.outcome == "completed", run.result
    tenant = Tenant(lab)
    tenant.wait_until_known(guest, "beta")
    assert tenant.refused(guest, "--network-mode", "extend", to="alpha") == {"network_chain"}
    answers(lab, guest)


def _wait_for_answers(lab: Lab, guest: GuestRecord) -> None:
    deadline = time.monotonic() + BACK_WITHIN_S
    while True:
        try:
            answers(lab, guest)
        except AssertionError:
            assert time.monotonic() < deadline, f"the guest does not answer {BACK_WITHIN_S:.0f} s after the outage"
        else:
            return
