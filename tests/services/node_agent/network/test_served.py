"""A gateway of a neutral prefix: newer epochs win, a port's change is taken back, and a restart forgets nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from services.node_agent.network.served import ServedVms
from services.node_agent.network.steps import Step
from shared.messages.addresses import ServeAddresses
from shared.messages.network import CareOf
from tests.services.node_agent.network.test_keeper import Kernel

VM = UUID(int=5)
FIRST, SECOND = UUID(int=1), UUID(int=2)


def word(port_id: UUID, epoch: int, real: str | None) -> ServeAddresses:
    """The broker's."""
    care_of = () if real is None else (CareOf(address="198.51.100.10", real=real),)
    return ServeAddresses(port_id=port_id, vm_uuid=VM, epoch=epoch, owner="beta", care_of=care_of)


def places(kernel: Kernel) -> list[str]:
    """Where packets are sent."""
    return [place for place in ("10.0.1.1", "10.0.2.1") if f"'{place}'" in str(kernel.made[-1:])]


async def test_a_newer_epoch_wins_and_an_older_one_is_refused(tmp_path: Path) -> None:
    kernel = Kernel()
    vms = ServedVms(tmp_path, kernel)
    assert await vms.serve(word(FIRST, 2, "10.0.1.1")) == 2
    assert places(kernel) == ["10.0.1.1"]
    assert await vms.serve(word(SECOND, 3, "10.0.2.1")) == 3
    assert places(kernel) == ["10.0.2.1"]
    assert await vms.serve(word(FIRST, 2, "10.0.1.1")) == 3
    assert places(kernel) == ["10.0.2.1"]
    assert await vms.serve(word(SECOND, 3, "10.0.2.1")) == 3


async def test_a_ports_change_is_taken_back(tmp_path: Path) -> None:
    kernel = Kernel()
    vms = ServedVms(tmp_path, kernel)
    await vms.serve(word(FIRST, 2, "10.0.1.1"))
    await vms.serve(word(SECOND, 3, "10.0.2.1"))
    for _ in range(2):
        assert await vms.serve(word(SECOND, 4, None)) == 4
        assert places(kernel) == ["10.0.1.1"]


async def test_the_first_ports_change_taken_back_leaves_nothing(tmp_path: Path) -> None:
    kernel = Kernel()
    vms = ServedVms(tmp_path, kernel)
    await vms.serve(word(FIRST, 2, "10.0.1.1"))
    await vms.serve(word(FIRST, 3, None))
    assert kernel.made == []


class SlowOnce(Kernel):
    """Its first change takes longer than the next one."""

    slow = True

    async def make(self, steps: Iterable[Step]) -> None:
        slow, self.slow = self.slow, False
        if slow:
            await asyncio.sleep(0.05)
        await super().make(steps)


async def test_a_commit_that_is_taken_back_at_once_does_not_come_late(tmp_path: Path) -> None:
    kernel = SlowOnce()
    vms = ServedVms(tmp_path, kernel)
    words = (word(FIRST, 2, "10.0.1.1"), word(SECOND, 3, "10.0.2.1"))
    assert await asyncio.gather(*(vms.serve(each) for each in words)) == [2, 3]
    assert places(kernel) == ["10.0.2.1"]


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    await ServedVms(tmp_path, Kernel()).serve(word(FIRST, 2, "10.0.1.1"))
    (tmp_path / "x.json").write_text("{", encoding="ascii")
    kernel = Kernel()
    vms = ServedVms(tmp_path, kernel)
    assert await vms.restore() == ("x.json",)
    assert places(kernel) == ["10.0.1.1"]
    assert await vms.serve(word(SECOND, 1, "10.0.2.1")) == 2
