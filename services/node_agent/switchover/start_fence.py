"""Keeps a VM that is leaving from being started at the donor: by its host's boot, by an operator, by a restored
definition.

`finish_guard` keeps the copy that runs from running; this keeps another one from being booted, also where this agent is
dead and the host was restarted. It is closed before another host may run the VM, and opened when the ledger says that
the VM stays. Both may be repeated. What refuses the start is libvirt's hook (`hypervisor/start_hook`); what it reads is
in `state/given_away`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, VmNotFound
from services.node_agent.state.boot import boot_id
from services.node_agent.state.given_away import GivenAwayVm
from services.node_agent.state.journal import TransferJournal
from shared.logs import get_logger
from shared.messages.vm import VmState

log = get_logger(__name__)

TRIES = 10
TRY_AGAIN_S = 1.0


class StartFence:
    """One outbound transfer's fence against starts."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        journal: TransferJournal,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        boot_id: Callable[[], str] = boot_id,
        again_s: float = TRY_AGAIN_S,
    ) -> None:
        self._hypervisor = hypervisor
        self._journal = journal
        self._now = now
        self._boot_id = boot_id
        self._again_s = again_s

    @property
    def closed(self) -> bool:
        """Whether this port has given the VM away, as far as this host knows."""
        agreement = self._journal.record.agreement
        return self._journal.given_away.given_by(agreement.vm_uuid, agreement.port_id)

    async def hold_autostart(self, *, is_on: bool) -> None:
        """Take autostart off, journalled first. To be called before the migration: libvirt changes no VM during one.

        Raises OSError, HypervisorError.
        """
        if is_on:
            self._journal.remember_autostart(on=True, boot_id=self._boot_id())
            await self._hypervisor.set_autostart(self._journal.record.agreement.vm_uuid, enabled=False)

    def close(self, reason: str) -> None:
        """Note durably that the VM is given away; to be called before another host may run it. Raises OSError."""
        since = self._now().isoformat(timespec="seconds")
        given = GivenAwayVm.by(self._journal.record.agreement, since=since, reason=reason)
        self._journal.given_away.store(given)

    async def open(self) -> None:
        """The ledger says that the VM stays: it may be started here, and is with its host if it was before.

        A VM that its host would have booted meanwhile is booted. What libvirt refuses is logged; the journal keeps it,
        so that the next call tries again. Raises OSError.
        """
        agreement = self._journal.record.agreement
        self._journal.given_away.take_back(agreement.vm_uuid, agreement.port_id)
        if not self._journal.record.autostart:
            return
        for left in reversed(range(TRIES)):
            try:
                await self._restore_autostart()
            except VmNotFound:
                log.warning("autostart not restored: the VM is gone", vm=str(agreement.vm_uuid))
            except HypervisorError as error:
                if left:
                    await asyncio.sleep(self._again_s)
                    continue
                log.error(  # noqa: TRY400  # libvirt's sentence says all
                    "autostart not restored; set it by hand", vm=str(agreement.vm_uuid), error=str(error)
                )
                return
            self._journal.remember_autostart(on=False)
            return

    async def _restore_autostart(self) -> None:
        uuid = self._journal.record.agreement.vm_uuid
        await self._hypervisor.set_autostart(uuid, enabled=True)
        rebooted = self._journal.record.boot_id != self._boot_id()
        if rebooted and await self._hypervisor.state(uuid) is VmState.SHUT_OFF:
            log.warning("host was restarted while the VM was leaving; booting it", vm=str(uuid))
            await self._hypervisor.start(uuid)
