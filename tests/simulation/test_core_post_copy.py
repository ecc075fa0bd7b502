"""Ports with post-copy in the core tier: one fault at each moment, from the question for it to the last page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation import core_world
from tests.simulation.core_post_copy import PostCopy
from tests.simulation.faults import POST_COPY_SHARE, Fault, Plan, Stage, cells, draw, draw_core

MOMENTS = 24


@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.COMMITTED, Stage.POST_COPY])
@pytest.mark.parametrize(
    ("kind", "party"),
    [
        ("crash", "alpha"),
        ("crash", "beta"),
        ("qemu", "beta"),
        ("reboot", "alpha"),
        ("reboot", "beta"),
        ("libvirtd", "alpha"),
        ("libvirtd", "beta"),
        ("disk_full", "alpha"),
        ("disk_full", "beta"),
        ("lanes", "lanes"),
        ("power_off", "guest"),
    ],
)
def test_post_copy_loses_no_disk_and_makes_no_second_copy(kind: str, party: str, stage: Stage, tmp_path: Path) -> None:
    """Before Finish the donor's guest is whole, and runs on; after it memory may be lost, never a disk."""
    for after in range(MOMENTS):
        plan = Plan(1, (Fault(kind, party, stage, after=after),), post_copy=True)
        assert core_world.simulate(plan, tmp_path).violations == [], plan


def test_a_guest_arrives_by_post_copy(tmp_path: Path) -> None:
    """Without a fault, as it does without post-copy."""
    outcome = core_world.simulate(Plan(1, post_copy=True), tmp_path)
    assert (outcome.ended, outcome.violations) == ("PortCompleted", [])
    fault = Fault("lanes", "lanes", Stage.POST_COPY, for_s=120.0)
    outcome = core_world.simulate(Plan(1, (fault,), post_copy=True), tmp_path)
    assert (outcome.ended, outcome.violations) == ("PortCompleted", [])
    assert outcome.cells == {fault.cell}


def test_a_donor_that_lets_its_copy_run_again_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model can show a second copy: QEMU itself keeps what post-copy left behind from running."""
    taken = PostCopy.take_over

    def take_over(self: PostCopy) -> None:
        taken(self)
        alpha = self._world.hosts["alpha"]
        self._world.after(1.0, alpha.let_run)

    monkeypatch.setattr(PostCopy, "take_over", take_over)
    rules = {each.rule for each in core_world.simulate(Plan(1, post_copy=True), tmp_path).violations}
    assert rules & {"two copies", "older epoch"}


def test_a_share_of_the_schedules_has_post_copy() -> None:
    """The others are as they are drawn for both tiers."""
    plans = [draw_core(seed) for seed in range(1000)]
    assert abs(sum(plan.post_copy for plan in plans) / 1000 - POST_COPY_SHARE) < 0.05
    assert all(plan == draw(plan.seed) for plan in plans if not plan.post_copy)
    drawn = {fault.cell for seed in range(30_000) for fault in draw_core(seed).faults}
    assert cells("core") <= drawn
    assert not any(cell[0] == Stage.POST_COPY for cell in cells("services"))
