"""Plans are drawn from seeds, and become simpler step by step."""

from __future__ import annotations

import json

from tests.simulation.faults import DECISIVE, Fault, Plan, Stage, aimed, cells, draw, simpler


def test_a_seed_gives_one_plan() -> None:
    """And another seed another one."""
    assert draw(7) == draw(7)
    assert len({draw(seed).to_json().__str__() for seed in range(50)}) > 45


def test_half_of_the_faults_are_where_it_is_decided() -> None:
    """Between the last round and the disconnection."""
    faults = [fault for seed in range(2000) for fault in draw(seed).faults if fault.kind != "skew"]
    share = sum(fault.stage in DECISIVE for fault in faults) / len(faults)
    assert 0.6 < share < 0.9


def test_every_cell_can_be_drawn() -> None:
    """Coverage counts nothing that no seed gives."""
    drawn = {fault.cell for seed in range(30_000) for fault in draw(seed).faults}
    assert cells("services") <= drawn
    assert {cell for cell in cells("core") if cell[0] != Stage.POST_COPY} < cells("services")


def test_each_seed_aims_at_another_cell() -> None:
    """As many schedules as there are cells try each of them; a seed gives one plan."""
    targets = cells("services")
    assert {aimed(seed, "services").faults[0].cell for seed in range(len(targets))} == targets
    assert aimed(7, "services") == aimed(7, "services")
    assert aimed(7, "services").faults[1:] == draw(7).faults[1:]


def test_a_short_stage_is_reached_by_a_run_with_nothing_else() -> None:
    """Every fourth round: one fault, as soon as its stage begins."""
    targets = cells("services")
    plans = [aimed(len(targets) + seed, "services") for seed in range(len(targets))]
    assert {plan.faults[0].cell for plan in plans} == targets
    assert {(len(plan.faults), plan.faults[0].after, plan.lose) for plan in plans} == {(1, 0, 0.0)}


def test_a_plan_is_read_from_its_report() -> None:
    """Whatever was drawn."""
    for seed in range(20):
        assert Plan.from_json(json.loads(json.dumps(draw(seed).to_json()))) == draw(seed)


def test_simpler_plans_have_less() -> None:
    """One fault fewer, a calm network, an earlier strike; the simplest plan has nothing simpler."""
    crash = Fault("crash", "broker", Stage.ASKED, after=3)
    plan = Plan(1, (crash, Fault("cancel", "tenant", Stage.MEMORY)), delay_s=0.5, autostart=True)
    offered = list(simpler(plan))
    assert any(len(each.faults) == 1 for each in offered)
    assert any(each.delay_s == 0 for each in offered)
    assert any(each.faults[0].after == 0 for each in offered if len(each.faults) == 2)
    assert list(simpler(Plan(1))) == []
