"""Contents go ahead of the window; the guest moves in it, with few bytes, and can be kept until then."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from deploy.labkit.lab import Lab
from deploy.labkit.state import GuestRecord
from shared.exit_codes import ExitCode

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

FAST = ("--seed", "--seed-bandwidth", "64MiB")


def test_a_seeded_guest_moves_in_its_window(lab: Lab, tenant: Any, start_guest: Callable[..., GuestRecord]) -> None:
    """What went ahead does not go again; the promised time counts from the window."""
    guest = start_guest("ahead", workload="writer")
    before = lab.guest_report(guest.name)

    done = tenant.run("port", "create", guest.uuid, "--to", "beta", "--window", "+50s", *FAST, "--watch")

    assert done.returncode == ExitCode.OK, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    phases = [event["data"]["phase"] for event in events if event["type"] == "PortProgressed"]
    assert phases[0] == "seeding"
    assert "seeding" not in phases[phases.index("memory") :]
    outcome = events[-1]["data"]
    assert outcome["outcome"] == "completed"
    in_window_bytes = outcome["wire_bytes"] - outcome["seeded_bytes"]
    assert outcome["seeded_bytes"] > 5 << 20
    assert in_window_bytes < 0.3 * outcome["seeded_bytes"]
    assert outcome["sla"]["measured_total_s"] < 40
    now = lab.guest_report(guest.name)
    assert (now["boot_id"], now["mismatches"], now["disk_mismatches"]) == (before["boot_id"], 0, 0)
    assert lab.guest_place(guest.name).provider == "beta"


def test_a_cancel_before_the_window_leaves_no_trace(
    lab: Lab, tenant: Any, start_guest: Callable[..., GuestRecord], provider: Callable[[str], Any]
) -> None:
    """The guest runs on at alpha, and beta is as it was."""
    beta = provider("beta")
    domains, images = beta.domains(), beta.images()
    guest = start_guest("thinks-again", workload="writer")
    boot_id = lab.guest_report(guest.name)["boot_id"]

    port_id = tenant.create(guest, "beta", "--window", "+1h", *FAST)
    tenant.wait_for_transfer(port_id, "seeding", 20)
    tenant.run("port", "cancel", port_id)
    assert tenant.wait_for_end(port_id)["summary"]["phase"] == "cancelled"

    report = lab.guest_report(guest.name)
    assert (report["boot_id"], report["mismatches"]) == (boot_id, 0)
    assert lab.guest_place(guest.name).provider == "alpha"
    assert (beta.domains(), beta.images(), beta.port_folders()) == (domains, images, [])
