"""The link goes away in the middle of a port, RabbitMQ and direct route at once: the port goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.port_run import run_port
from deploy.labkit.state import GuestRecord
from tests.support.link_cut import WRITER, CutInMemoryPhase, CutOnce

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

OUTAGE_S = 20.0
LATE_S = 25.0
"""RabbitMQ's silence is noticed after 30 s at the latest, here 10 s after the link is back; then 15 s."""


@pytest.mark.usefixtures("slow_link")
@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_an_outage_in_the_memory_phase_costs_its_own_time(
    lab: Lab, start_guest: Callable[..., GuestRecord], host: str
) -> None:
    """The same transfer goes on: the guest arrives whole, little later than the link was away. The long outage is
    `tests/bench/outage`.
    """
    plain = start_guest("patient", workload="writer", settings=WRITER)
    without = run_port(lab, plain.name, to="beta")
    guest = start_guest("enduring", workload="writer", settings=WRITER)
    boot_id = lab.guest_report(guest.name)["boot_id"]

    outage = CutInMemoryPhase(lab, host, OUTAGE_S)
    run = run_port(lab, guest.name, to="beta", on_event=outage)
    assert outage.finish() >= OUTAGE_S

    assert (without.outcome, run.outcome) == ("completed", "completed"), run.result
    report = lab.guest_report(guest.name)
    assert (report["boot_id"], report["mismatches"], report["disk_mismatches"]) == (boot_id, 0, 0)
    assert lab.guest_place(guest.name).provider == "beta"
    took_s, without_s = (each.result["sla"]["measured_total_s"] for each in (run, without))
    assert took_s - without_s < outage.cut_s + LATE_S


@pytest.fixture
def long_link(lab: Lab) -> Iterator[None]:
    """A round trip of 400 ms, so that a few of them last long enough to be met; none again afterwards."""
    lab.up(LabOptions(rtt="400ms"))
    yield
    lab.up(LabOptions(rtt="none"))


@pytest.mark.usefixtures("long_link")
def test_an_outage_while_the_hypervisors_negotiate_about_the_disks(
    lab: Lab, start_guest: Callable[..., GuestRecord]
) -> None:
    """The recipient's QEMU gives its NBD client 10 s for that, and the link is away for longer."""
    guest = start_guest("parleying")
    boot_id = lab.guest_report(guest.name)["boot_id"]

    def negotiates() -> bool:
        sockets = lab.exec("beta", ["ss", "-xnH", "state", "established"]).stdout
        return "/nbd.sock" in sockets

    with CutOnce(lab, "alpha", OUTAGE_S, negotiates) as outage:
        run = run_port(lab, guest.name, to="beta")
    assert outage.cut_s >= OUTAGE_S

    assert run.outcome == "completed", run.result
    assert "nbd negotiation ended by its time limit" in lab.log_file("node-beta").read_text(encoding="utf-8")
    report = lab.guest_report(guest.name)
    assert (report["boot_id"], report["mismatches"], report["disk_mismatches"]) == (boot_id, 0, 0)
    assert lab.guest_place(guest.name).provider == "beta"
