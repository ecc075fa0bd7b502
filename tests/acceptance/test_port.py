"""The main job: a running guest moves there and back, and is the same guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.labkit.lab import Lab
from deploy.labkit.port_run import run_port
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
