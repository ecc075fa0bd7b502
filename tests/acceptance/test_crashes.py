"""Processes die in the middle of a port: the guest runs exactly once, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.state import GuestRecord

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


@pytest.mark.usefixtures("slow_link")
def test_the_donors_node_agent_is_killed_in_the_memory_phase(
    lab: Lab,
    tenant: Any,
    start_guest: Callable[..., GuestRecord],
    provider: Callable[[str], Any],
    kill: Callable[[str], None],
) -> None:
    """The guest runs on at alpha, nothing is left at beta, and a second attempt succeeds."""
    beta = provider("beta")
    domains, images = beta.domains(), beta.images()
    guest = start_guest("phoenix", workload="writer")
    boot_id = lab.guest_report(guest.name)["boot_id"]

    port_id = tenant.create(guest, "beta", "--post-copy", "never")
    tenant.wait_for_transfer(port_id, "memory")
    kill("node-alpha")
    lab.up()
    record = tenant.wait_for_end(port_id)

    assert record["summary"]["phase"] == "failed"
    report = lab.guest_report(guest.name)
    assert (report["boot_id"], report["mismatches"]) == (boot_id, 0)
    assert (beta.domains(), beta.images(), beta.port_folders()) == (domains, images, [])
    assert provider("alpha").port_folders() == []

    lab.up(LabOptions(link="none"))
    again = tenant.wait_for_end(tenant.create(guest, "beta"))
    assert again["summary"]["phase"] == "completed"
    report = lab.guest_report(guest.name)
    assert (report["boot_id"], report["mismatches"]) == (boot_id, 0)


@pytest.mark.usefixtures("slow_link")
def test_the_broker_is_killed_in_the_memory_phase(
    lab: Lab, tenant: Any, start_guest: Callable[..., GuestRecord], kill: Callable[[str], None]
) -> None:
    """Pages flow on without the broker, and when it is back the port completes."""
    guest = start_guest("patient", workload="writer", settings={"region_mib": 32, "hot_mib": 1, "pages_s": 50})
    port_id = tenant.create(guest, "beta")
    tenant.wait_for_transfer(port_id, "memory")
    kill("broker")
    lab.up()
    record = tenant.wait_for_end(port_id)
    assert record["summary"]["phase"] == "completed"
    assert lab.guest_report(guest.name)["mismatches"] == 0
    assert lab.guest_place(guest.name).provider == "beta"
