"""Guards the donor's switchover: from libvirt's Finish call until it is known who runs the guest.

Fences the guest, remembers it in the journal, asks the broker where the recipient's answer does not settle the matter.
`outbound` documents the crash windows; `verdict` holds the decision table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.verdict import Verdict, donor_verdict
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement

log = get_logger(__name__)

ANSWER_WITHIN_S = 10.0
"""An answer to Finish that takes longer is probably lost. Asking too early costs only a question."""


class DonorFinishGuard:
    """One port's `FinishGuard`. `post_copy` is set by whoever starts post-copy."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        broker: BrokerClient,
        journal: TransferJournal,
        in_doubt: Callable[[str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._broker = broker
        self._journal = journal
        self._in_doubt = in_doubt
        self._clock = clock
        self.post_copy = False
        self.passed = False
        self.aborted = asyncio.Event()
        self.verdict: Verdict | None = None
        self.settled_at_s: float | None = None
        """When it was known here that the guest runs at the recipient."""

    async def before_finish(self) -> None:
        """Fence and remember."""
        self.passed = True
        if not self.post_copy:
            fenced = await self._hypervisor.freeze(self._agreement.vm_uuid)
            log.info("guest frozen for the switchover", fence=fenced)
        self._journal.enter(Phase.FINISH_PASSED)

    async def after_finish(self, error: str | None) -> Verdict:
        """The recipient's hypervisor answered."""
        if error is None:
            return self._settle(Verdict.RUNS_THERE)
        log.warning("finish failed at the recipient", error=error)
        return await self._decide(recipient_failed=True)

    async def ask_broker(self) -> Verdict:
        """Without an answer for a while, or with the broker's abort, the ledger settles it; the lane may be dead
        long since."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self.aborted.wait()
        except TimeoutError:
            log.warning("no reply to finish; asking the broker")
        return await self._decide(recipient_failed=False)

    async def outcome_unknown(self, reason: str) -> Verdict:
        """The answer is lost."""
        log.warning("switchover in doubt; asking the broker", reason=reason)
        await self._in_doubt(reason)
        return await self._decide(recipient_failed=False)

    async def _decide(self, *, recipient_failed: bool) -> Verdict:
        """Ask until there is a verdict. Has no deadline: while nothing is known, the only safe state is a guest that
        stays paused."""
        while True:
            state = None if self.aborted.is_set() else await self._broker.query()
            verdict = donor_verdict(
                state,
                donor=self._agreement.donor,
                recipient_failed=recipient_failed,
                aborted=self.aborted.is_set(),
            )
            if verdict is not Verdict.WAIT:
                return self._settle(verdict)
            try:
                async with asyncio.timeout(self._broker.repeat_s / 2):
                    await self.aborted.wait()
            except TimeoutError:
                continue

    async def lift_fence(self) -> None:
        """Just before this host's libvirtd, which still waits for Finish, hears the verdict: it needs a QEMU that
        answers.

        Never where libvirtd has hung up: it may have queued a resume, which a thawed QEMU would carry out.
        """
        if self.post_copy:
            return
        try:
            await self._hypervisor.thaw(self._agreement.vm_uuid)
        except HypervisorError:
            log.exception("fence cannot be lifted", vm=str(self._agreement.vm_uuid))

    def _settle(self, verdict: Verdict) -> Verdict:
        self.verdict = verdict
        if verdict is Verdict.RUNS_THERE:
            self.settled_at_s = self._clock()
        return verdict
