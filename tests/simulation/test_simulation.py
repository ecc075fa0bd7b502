"""Both tiers in short: a seed replays, schedules break no rule, planted bugs are found, a report says what was seen.

Most tests run the program, since the services tier changes what time is for its whole process.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.node_agent.network.port_moments import PortMoments
from tests.simulation import core_world
from tests.simulation.core_network import network_of
from tests.simulation.faults import Fault, Plan, Stage
from tests.simulation.planted import BUGS

RUN = Path(__file__).parent / "run"


def simulate(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Run schedules; returns the report."""
    report = tmp_path / "report.json"
    subprocess.run([RUN, *arguments, "--json", report], check=False, stdout=subprocess.DEVNULL, timeout=300)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_a_seed_replays_exactly(tmp_path: Path) -> None:
    """Two runs take the same steps in the same order, faults and all."""
    first, second = (simulate(tmp_path, "--tier", "services", "--schedules", "3", "--seed", "1") for _ in range(2))
    assert first["digest"] == second["digest"] != 0
    assert first["cells_hit"] == second["cells_hit"] > 0


def test_the_report_has_its_fields(tmp_path: Path) -> None:
    """Those that others read."""
    report = simulate(tmp_path, "--tier", "services", "--schedules", "1", "--seed", "3")
    assert {"tier", "schedules", "violations", "seconds", "cells_hit", "cells"} <= report.keys()
    assert (report["tier"], report["schedules"]) == ("services", 1)


def test_the_core_tier_breaks_no_rule(tmp_path: Path) -> None:
    """A share of the long run: saga and machines under faults, from the window's opening to the end."""
    report = simulate(tmp_path, "--tier", "core", "--schedules", "2000", "--jobs", "2")
    assert report["failures"] == []
    assert report["settled_by_an_operator"] == []
    assert report["cells_hit"] > 0.9 * report["cells"]


def test_the_services_tier_breaks_no_rule(tmp_path: Path) -> None:
    """The same with broker, agents and nodes as they are, from the request on."""
    report = simulate(tmp_path, "--tier", "services", "--schedules", "24", "--seed", "200", "--jobs", "2")
    assert report["failures"] == []
    assert report["schedules"] == 24


def test_the_core_tier_replays_exactly(tmp_path: Path) -> None:
    """Whatever the number of processes."""
    first = simulate(tmp_path, "--tier", "core", "--schedules", "300", "--jobs", "1")
    second = simulate(tmp_path, "--tier", "core", "--schedules", "300", "--jobs", "2")
    assert first["digest"] == second["digest"] != 0


@pytest.mark.parametrize("bug", ["commit after Finish", "ack before store"])
def test_the_services_tier_finds_a_planted_bug(bug: str, tmp_path: Path) -> None:
    """At once: every port shows it."""
    report = simulate(tmp_path, "--tier", "services", "--schedules", "10", "--plant", bug, "--until-found")
    assert report["violations"] == 1


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    """Within a thousand schedules."""
    report = simulate(tmp_path, "--tier", "core", "--schedules", "1000", "--plant", bug, "--until-found")
    assert report["violations"] == 1


@pytest.mark.parametrize(("kind", "party"), [("power_off", "guest"), ("qemu", "beta")])
def test_a_guest_that_ends_while_libvirtd_is_away_is_not_given_back(kind: str, party: str, tmp_path: Path) -> None:
    """libvirtd dies at each moment of Finish, and the guest ends soon after: there is no older copy that runs."""
    for died in range(10, 24):
        for ended in range(died, 30):
            libvirtd = Fault("libvirtd", "beta", Stage.COMMITTED, after=died)
            plan = Plan(1, faults=(libvirtd, Fault(kind, party, Stage.COMMITTED, after=ended)))
            assert core_world.simulate(plan, tmp_path).violations == [], plan


@pytest.mark.parametrize(("kind", "party"), [("power_off", "guest"), ("qemu", "beta")])
def test_a_guest_that_ends_as_the_donor_hangs_up_is_not_given_back(kind: str, party: str, tmp_path: Path) -> None:
    """The donor's libvirtd dies at each moment of Finish, and the guest ends before libvirt has told of its start."""
    for died in range(10, 30):
        for ended in range(10, 30):
            libvirtd = Fault("libvirtd", "alpha", Stage.COMMITTED, after=died)
            plan = Plan(1, faults=(libvirtd, Fault(kind, party, Stage.COMMITTED, after=ended)))
            assert core_world.simulate(plan, tmp_path).violations == [], plan


@pytest.mark.parametrize(("kind", "party"), [("power_off", "guest"), ("qemu", "beta")])
def test_a_guest_that_ends_while_its_node_agent_is_away_is_not_given_back(
    kind: str, party: str, tmp_path: Path
) -> None:
    """The agent dies at each moment of Finish, and the guest ends before the next one looks."""
    for died in range(16):
        for ended in range(10, 34):
            agent = Fault("crash", "beta", Stage.COMMITTED, after=died)
            plan = Plan(1, faults=(agent, Fault(kind, party, Stage.COMMITTED, after=ended)))
            assert core_world.simulate(plan, tmp_path).violations == [], plan


MODES = 5
"""Seeds whose VMs keep their addresses in another way each."""


def _seeds() -> list[int]:
    """One for each way to keep a VM's addresses."""
    found: dict[str, int] = {}
    for seed in range(1000):
        if (kept := network_of(seed)) is not None:
            found.setdefault(kept.terms.model_dump_json(), seed)
    assert len(found) == MODES
    return sorted(found.values())


@pytest.mark.parametrize("seed", _seeds())
@pytest.mark.parametrize("party", ["alpha", "beta"])
def test_an_agent_that_dies_at_the_end_of_a_port_leaves_the_network_right(
    party: str, seed: int, tmp_path: Path
) -> None:
    """At each step from the commit on; the transfer's end may be stored before the network's is."""
    for died in range(48):
        plan = Plan(seed, faults=(Fault("crash", party, Stage.COMMITTED, after=died),))
        assert core_world.simulate(plan, tmp_path).violations == [], plan


def _stored_late(seed: int, party: str, died: int) -> Plan:
    """The disk is full while the network is told of the move, and the agent dies once there is space again."""
    full = Fault("disk_full", party, Stage.COMMITTED, after=10)
    return Plan(seed, faults=(full, Fault("crash", party, Stage.ARRIVED, after=died)))


@pytest.mark.parametrize("seed", _seeds())
@pytest.mark.parametrize("party", ["alpha", "beta"])
def test_an_agent_that_dies_after_a_full_disk_leaves_the_network_right(party: str, seed: int, tmp_path: Path) -> None:
    """The transfer's end is stored as soon as there is space, and the network's a little later."""
    for died in range(0, 24, 2):
        plan = _stored_late(seed, party, died)
        assert core_world.simulate(plan, tmp_path).violations == [], plan


def test_that_an_ended_ports_network_is_forgotten_would_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process that did not look after it leaves an address that nobody carries."""
    monkeypatch.setattr(PortMoments, "ended", lambda *_, **__: None)
    plans = (_stored_late(seed, "beta", died) for seed in _seeds() for died in range(24))
    rules = (each.rule for plan in plans for each in core_world.simulate(plan, tmp_path).violations)
    assert next(rules) == "address"
