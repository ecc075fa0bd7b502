"""The main job: a running guest moves there and back, and is the same guest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from deploy.labkit import services
from deploy.labkit.lab import Lab
from deploy.labkit.port_run import run_port
from deploy.labkit.services import DIRECT_PORT
from deploy.labkit.state import GuestRecord

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


def test_a_writing_guest_is_ported_there_and_back(lab: Lab, start_guest: Callable[..., GuestRecord]) -> None:
    """Memory, disk, UUID, MAC and boot id are those of before; each time only the new provider has the guest."""
    guest = start_guest("wanderer", workload="writer")
    before = lab.guest_report(guest.name)

    for donor, recipient in (("alpha", "beta"), ("beta", "alpha")):
        run = run_port(lab, guest.name, to=recipient)
        assert run.outcome == "completed", run.result
        now = lab.guest_report(guest.name)
        assert now["boot_id"] == before["boot_id"]
        assert now["uptime_s"] >= before["uptime_s"]
        assert now["passes"] > before["passes"]
        assert now["mismatches"] == 0
        assert now["disk_mismatches"] == 0
        assert lab.guest_place(guest.name).provider == recipient
        assert guest.uuid not in lab.virsh(donor, "list", "--all", "--uuid").split()
        assert f"<mac address='{guest.mac}'" in lab.virsh(recipient, "dumpxml", guest.uuid)
        assert "yes" in lab.virsh(recipient, "dominfo", guest.uuid).split("Persistent:")[1].split("\n")[0]
        assert run.result["sla"]["measured_downtime_ms"] > 0
        # Also on the way back, where the guest is reached through the joined networks.
        assert 0 < run.result["sla"]["measured_outage_ms"] < 10_000
        assert run.wire_bytes > run.result["wire_bytes"] > 0
        before = now


@pytest.fixture
def no_direct_route(lab: Lab) -> Iterator[None]:
    """From no provider's host is there a route to the other's lane port."""
    rule = ["ipproto", "tcp", "dport", str(DIRECT_PORT), "unreachable"]
    for provider in lab.plan.providers:
        done = lab.exec(provider, ["ip", "rule", "add", *rule])
        assert done.returncode == 0, done.stderr
    yield
    for provider in lab.plan.providers:
        lab.exec(provider, ["ip", "rule", "del", *rule])


def relayed_bytes(lab: Lab, node: str) -> float:
    """What a node agent has put on the relay for memory and disk, by its own metrics."""
    (service,) = [service for service in services.services(lab.plan) if service.name == node]
    _, metrics = services.get(lab.plan, service, "/metrics")
    return sum(
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("vmport_stream_wire_bytes_total")
        and 'route="relay"' in line
        and 'direction="outbound"' in line
        and ('lane="memory"' in line or 'lane="disk"' in line)
    )


@pytest.mark.usefixtures("no_direct_route")
def test_without_a_direct_route_rabbitmq_carries_the_port(lab: Lab, start_guest: Callable[..., GuestRecord]) -> None:
    """The relay is always there: the port completes over it, and the guest's memory and disk are whole."""
    guest = start_guest("relayed", workload="writer")
    before = relayed_bytes(lab, "node-alpha")
    run = run_port(lab, guest.name, to="beta")
    assert run.outcome == "completed", run.result
    assert relayed_bytes(lab, "node-alpha") - before > 10_000_000
    report = lab.guest_report(guest.name)
    assert (report["mismatches"], report["disk_mismatches"]) == (0, 0)
