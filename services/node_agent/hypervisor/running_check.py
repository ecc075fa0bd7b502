"""Whether a VM runs, asked in one way by everybody: for reports to the broker. Shared by every hypervisor adapter."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from uuid import UUID

from services.node_agent.hypervisor.interface import HypervisorError
from shared.logs import get_logger
from shared.messages.vm import VmState

ASK_AGAIN_S = 1.0
"""How long to wait before a hypervisor that did not answer is asked again."""

log = get_logger(__name__)


class RunningCheck(ABC):
    """Gives a hypervisor `is_running`, by its `state`."""

    @abstractmethod
    async def state(self, uuid: UUID) -> VmState | None:
        """Its run state; None where it does not exist."""

    async def is_running(self, uuid: UUID) -> bool:
        """Whether it runs. Unknown is not "no": asks until there is an answer. Never raises `HypervisorError`.

        On a "no" the broker gives the VM to the other side, so a libvirtd that is away for a moment must not cause one.
        """
        while True:
            try:
                state = await self.state(uuid)
            except HypervisorError as error:
                log.warning("guest state unknown, asking again", vm=str(uuid), error=str(error))
            else:
                if state is not VmState.OTHER:
                    return state is VmState.RUNNING
                log.warning("guest neither on nor off, asking again", vm=str(uuid))
            await asyncio.sleep(ASK_AGAIN_S)
