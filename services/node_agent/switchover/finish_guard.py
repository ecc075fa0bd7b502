"""The donor's most dangerous minute: from libvirt's Finish call to the news of who runs the guest.

Fences the guest, remembers it in the journal, asks the broker where the recipient's answer does not settle the matter.
`outbound` documents the crash windows; `switchover` holds the decision table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import HalfJournal, Phase
from services.node_agent.switchover.broker_client import BrokerTalk
from services.node_agent.switchover.verdict import Verdict, donor_verdict
from shared.messages.porting import ServiceChangeAgreement

log = structlog.stdlib.get_logger(__name__)

ANSWER_WITHIN_S = 10.0
"""An answer to Finish that takes longer is probably lost. Being too hasty only costs a question."""


class DonorFinishKeeper:
    """One port's `FinishKeeper`. `post_copy` is set by whoever starts post-copy."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        talk: BrokerTalk,
        journal: HalfJournal,
        in_doubt: Callable[[str], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._talk = talk
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
            log.info("everything is sent; the guest stands still", fence=fenced)
        self._journal.enter(Phase.FINISH_PASSED)

    async def after_finish(self, error: str | None) -> Verdict:
        """The recipient's hypervisor answered."""
        if error is None:
            return self._settle(Verdict.RUNS_THERE)
        log.warning("the recipient could not run the guest", reason=error)
        return await self._decide(recipient_failed=True)

    async def word_of_the_broker(self) -> Verdict:
        """Without an answer for a while, or with the broker's abort, the ledger settles it; the lane may be dead
        long since."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self.aborted.wait()
        except TimeoutError:
            log.warning("no answer to Finish yet; asking the broker, too")
        return await self._decide(recipient_failed=False)

    async def outcome_unknown(self, reason: str) -> Verdict:
        """The answer is lost."""
        log.warning("the outcome of the switchover is unknown; asking the broker", reason=reason)
        await self._in_doubt(reason)
        return await self._decide(recipient_failed=False)

    async def _decide(self, *, recipient_failed: bool) -> Verdict:
        """Ask until there is a verdict. Has no deadline: while nothing is known, the only safe state is to stand
        still."""
        while True:
            state = None if self.aborted.is_set() else await self._talk.query()
            verdict = donor_verdict(
                state,
                donor=self._agreement.donor,
                recipient_failed=recipient_failed,
                aborted=self.aborted.is_set(),
            )
            if verdict is not Verdict.WAIT:
                return self._settle(verdict)
            try:
                async with asyncio.timeout(self._talk.repeat_s / 2):
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
            log.exception("the fence could not be lifted")

    def _settle(self, verdict: Verdict) -> Verdict:
        self.verdict = verdict
        if verdict is Verdict.RUNS_THERE:
            self.settled_at_s = self._clock()
        return verdict
