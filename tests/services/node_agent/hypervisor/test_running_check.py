"""Whether a VM runs: an answer is waited for, never guessed."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.node_agent.hypervisor import running_check
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.running_check import RunningCheck
from shared.messages.vm import VmState

VM = UUID(int=1)


class Host(RunningCheck):
    """Answers as told, in order."""

    def __init__(self, *answers: VmState | HypervisorError | None) -> None:
        self.answers = list(answers)

    async def state(self, uuid: UUID) -> VmState | None:
        assert uuid == VM
        answer = self.answers.pop(0)
        if isinstance(answer, HypervisorError):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("state", "runs"),
    [(VmState.RUNNING, True), (VmState.PAUSED, False), (VmState.SHUT_OFF, False), (None, False)],
)
async def test_only_running_is_running(state: VmState | None, *, runs: bool) -> None:
    """Paused, off and absent are not."""
    assert await Host(state).is_running(VM) is runs


async def test_a_silent_hypervisor_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown is not "no": on a "no" the VM would be given to the other side."""
    monkeypatch.setattr(running_check, "ASK_AGAIN_S", 0.0)
    away = HypervisorError("look at the VM", "libvirtd is away")
    host = Host(away, away, VmState.RUNNING)
    assert await host.is_running(VM)
    assert host.answers == []


async def test_what_is_neither_on_nor_off_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM on its way to its end is waited for."""
    monkeypatch.setattr(running_check, "ASK_AGAIN_S", 0.0)
    host = Host(VmState.OTHER, None)
    assert not await host.is_running(VM)
    assert host.answers == []
