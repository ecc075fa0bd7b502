"""Whether a VM runs, asked in one way by everybody: for reports to the broker. Shared by every hypervisor adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from uuid import UUID

import structlog

from services.node_agent.hypervisor.interface import HypervisorError
from shared.messages.vm import VmState

log = structlog.stdlib.get_logger(__name__)


class RunningCheck(ABC):
    """Gives a hypervisor `is_running`, by its `state`."""

    @abstractmethod
    async def state(self, uuid: UUID) -> VmState | None:
        """Its run state; None where it does not exist."""

    async def is_running(self, uuid: UUID) -> bool:
        """Whether it runs; False, and logged, where that cannot be known. Never raises `HypervisorError`."""
        try:
            return await self.state(uuid) is VmState.RUNNING
        except HypervisorError:
            log.exception("guest state unknown", vm=str(uuid))
            return False
