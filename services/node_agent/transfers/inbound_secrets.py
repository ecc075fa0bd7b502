"""The recipient's side of the handover: the keys become secrets of this host's libvirt, and encrypted disks are made.

The journal knows each secret before it is made, so that a port that fails leaves none behind. The definition that the
provider issued names them by UUID. A secret that is there already is somebody's, and is never overwritten or removed.
"""

from __future__ import annotations

import asyncio

from services.node_agent.hypervisor.interface import Hypervisor, SecretError
from services.node_agent.hypervisor.secret_values import spec_for
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.state.journal import Kind, TransferJournal
from services.node_agent.transfers.inbound_disks import InboundDisks
from services.node_agent.transfers.secret_handover import answer_kept, read_secrets
from shared.domain import DomainXmlError, describe
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement

log = get_logger(__name__)


class InboundSecrets:
    """One port's secrets at the recipient. `settle` before the domain is made, and before anything is removed."""

    def __init__(
        self,
        agreement: ServiceChangeAgreement,
        *,
        hypervisor: Hypervisor,
        journal: TransferJournal,
        disks: InboundDisks,
    ) -> None:
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._journal = journal
        self._disks = disks
        self._lock = asyncio.Lock()
        self._begun = False
        self._kept = False

    async def receive(self, stream: LaneStream) -> None:
        """Take the secrets that come on `stream`, once.

        Raises `HypervisorError`, `DiskImageError`, DomainXmlError, QuestionError, LaneError, StreamError, OSError.
        """
        uses = describe(self._agreement.domain_xml).secrets
        handed = await read_secrets(stream, uses)
        async with self._lock:
            if self._begun:
                raise SecretError("keep the VM's secrets", "they have come already, or come too late")
            self._begun = True
            for use in uses:
                try:
                    spec = spec_for(use, self._agreement.port_id, self._agreement.vm_name)
                except ValueError as error:
                    raise DomainXmlError(f"it names no secret for {use.device}", element="encryption") from error
                self._journal.will_create(Kind.SECRET, str(spec.uuid))
                await self._hypervisor.secrets.keep(spec, handed[use.device].value)
            await self._disks.create_encrypted({use.target: handed[use.device] for use in uses if use.target})
            self._kept = True
        log.info("secrets kept", devices=sorted(handed))
        await answer_kept(stream)

    async def settle(self) -> None:
        """From now on no secret is made: the domain is made, or what was made is removed."""
        async with self._lock:
            self._begun = True

    def check(self) -> None:
        """Raise `SecretError` while a secret has not come that the definition names: it would be somebody else's."""
        if not self._kept and (uses := describe(self._agreement.domain_xml).secrets):
            devices = ", ".join(use.device for use in uses)
            raise SecretError("keep the VM's secrets", f"those of {devices} have not come, and the migration begins")
