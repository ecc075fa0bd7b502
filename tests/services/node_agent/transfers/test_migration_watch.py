"""The watch over one migration: what it does when libvirt refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from services.node_agent.switchover.convergence import GiveUp, SetMaxDowntime, StartPostCopy
from services.node_agent.transfers import migration_watch

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

VM = UUID("11111111-2222-3333-4444-555555555501")


@pytest.mark.parametrize("finish_is_out", [False, True])
async def test_a_refused_post_copy_leaves_the_guest_fenced(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, *, finish_is_out: bool
) -> None:
    """The fake has no post-copy. Finish fences as ever; one that went out meanwhile, unfenced, is fenced now."""

    async def granted(_: object) -> None:
        return

    monkeypatch.setattr(migration_watch, "ask_for_switchover", granted)
    pair.outbound._guard.passed = finish_is_out
    await pair.outbound._make_watch()._carry_out(StartPostCopy())
    assert not pair.outbound._guard.post_copy
    assert pair.donor.vms[VM].frozen is finish_is_out


async def test_a_longer_downtime_reaches_libvirt(pair: Pair) -> None:
    """In milliseconds."""
    await pair.outbound._make_watch()._carry_out(SetMaxDowntime(120))
    assert pair.donor.max_downtimes_ms == [120]


async def test_giving_up_is_trouble_with_its_reason(pair: Pair) -> None:
    """The transfer ends with the reason that the ladder gave."""
    await pair.outbound._make_watch()._carry_out(GiveUp("it writes too fast"))
    assert pair.outbound._trouble == ("not_converging", "it writes too fast")
