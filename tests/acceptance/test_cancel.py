"""A port can be cancelled at every moment before its switchover, and not after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from deploy.labkit.lab import Lab
from deploy.labkit.state import GuestRecord
from shared.exit_codes import ExitCode

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


@pytest.mark.usefixtures("slow_link")
@pytest.mark.parametrize("phase", ["disk", "memory"])
def test_cancel_leaves_the_vm_at_the_donor_and_nothing_at_the_recipient(
    lab: Lab, tenant: Any, start_guest: Callable[..., GuestRecord], provider: Callable[[str], Any], phase: str
) -> None:
    """Whatever flows when the tenant cancels, the guest runs on at alpha, and beta is as it was."""
    beta = provider("beta")
    domains, images = beta.domains(), beta.images()
    guest = start_guest(f"stays-{phase}", workload="writer")
    boot_id = lab.guest_report(guest.name)["boot_id"]

    port_id = tenant.create(guest, "beta", "--post-copy", "never")
    tenant.wait_for_transfer(port_id, phase)
    tenant.run("port", "cancel", port_id)
    record = tenant.wait_for_end(port_id)

    assert record["summary"]["phase"] == "cancelled"
    report = lab.guest_report(guest.name)
    assert (report["boot_id"], report["mismatches"]) == (boot_id, 0)
    assert lab.guest_place(guest.name).provider == "alpha"
    assert (beta.domains(), beta.images(), beta.port_folders()) == (domains, images, [])


@pytest.mark.usefixtures("slow_link")
def test_cancel_after_the_switchover_is_too_late(
    lab: Lab, tenant: Any, start_guest: Callable[..., GuestRecord], kill: Callable[[str], None]
) -> None:
    """Once the VM has passed, cancelling says that it is too late, and the port completes."""
    guest = start_guest("gone")
    # Without its donor agent the port stays in its last phase for as long as this test needs.
    port_id = tenant.create(guest, "beta")
    tenant.wait_for(port_id, "the transfer", lambda shown: shown["summary"]["phase"] == "transferring")
    kill("donor-alpha")
    tenant.wait_for(port_id, "the switchover", lambda shown: shown["summary"]["phase"] in {"switching", "finishing"})
    done = tenant.run("port", "cancel", port_id)
    assert done.returncode == ExitCode.REFUSED
    assert "too_late" in done.stderr
    lab.up()
    assert tenant.wait_for_end(port_id)["summary"]["phase"] == "completed"
    assert lab.guest_place(guest.name).provider == "beta"


@pytest.mark.usefixtures("slow_link")
def test_a_second_port_of_one_vm_is_refused_while_the_first_runs(
    tenant: Any, start_guest: Callable[..., GuestRecord]
) -> None:
    """At most one port of a VM is under way; the first one is not disturbed."""
    guest = start_guest("twice")
    first = tenant.create(guest, "beta")
    assert tenant.refused(guest) == {"port_under_way"}
    assert tenant.wait_for_end(first)["summary"]["phase"] == "completed"
