"""Whether a VM runs: only where the hypervisor says so."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.running_check import RunningCheck
from shared.messages.vm import VmState

VM = uuid4()


class Host(RunningCheck):
    """A host whose VM is in this state, or that fails."""

    def __init__(self, answer: VmState | HypervisorError | None) -> None:
        self.answer = answer

    async def state(self, uuid: UUID) -> VmState | None:  # noqa: ARG002  # one VM only
        if isinstance(self.answer, HypervisorError):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("state", [*VmState, None])
async def test_only_a_running_vm_runs(state: VmState | None) -> None:
    """A paused, shut off or unknown one does not."""
    assert await Host(state).is_running(VM) is (state is VmState.RUNNING)


async def test_a_hypervisor_that_does_not_answer_runs_nothing() -> None:
    """The error is logged, not raised: the report must go out all the same."""
    with capture_logs() as lines:
        assert not await Host(HypervisorError("look", "no connection")).is_running(VM)
    assert [(line["event"], line["vm"]) for line in lines] == [("guest state unknown", str(VM))]
