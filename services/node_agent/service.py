"""The node agent: receives the commands of its own provider's agents and the broker's answers about switchovers.

Handlers are quick: they store and return; the work runs in tasks. The bus checks who may send what.
"""

from __future__ import annotations

from uuid import UUID

from services.node_agent.messenger import Messenger
from services.node_agent.network_service import NetworkCommands
from services.node_agent.transfers.manager import Transfers
from services.node_agent.vm_commands import VmCommands
from shared.bus import Reject
from shared.logs import get_logger
from shared.messages import AnyEnvelope
from shared.messages.addresses import CloseExtension
from shared.messages.base import PortMessage
from shared.messages.nodes import CheckVm, DescribeVm, EraseQuarantine, ExpectOutbound
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    OpenInbound,
    ProvisionVm,
    ServiceChangeAgreement,
    Side,
    StartOutbound,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    VmProvisioned,
)
from shared.messages.switchover import QueryCopy
from shared.parties import Party
from shared.tasks import Tasks

log = get_logger(__name__)

ShortCommand = DescribeVm | CheckVm | ProvisionVm | DisconnectVm | EraseQuarantine


class NodeService:
    """Handles one node's inbox."""

    def __init__(
        self,
        party: Party,
        transfers: Transfers,
        commands: VmCommands,
        messenger: Messenger,
        network: NetworkCommands | None = None,
    ) -> None:
        self._party = party
        self._transfers = transfers
        self._commands = commands
        self._messenger = messenger
        self._network = network
        self._tasks = Tasks("commands")

    async def close(self) -> None:
        """End short commands that still run; whoever asked asks again."""
        await self._tasks.close()

    async def handle(self, envelope: AnyEnvelope) -> None:
        """Act on one message. Raises `Reject` for what can never be acted on."""
        match envelope.data:
            case OpenInbound(agreement=agreement):
                self._check(agreement, agreement.recipient, agreement.recipient_node)
                self._transfers.start(Side.INBOUND, agreement)
            case StartOutbound(agreement=agreement):
                self._check(agreement, agreement.donor, agreement.donor_node)
                self._transfers.start(Side.OUTBOUND, agreement)
            case ExpectOutbound() as command:
                self._transfers.expect(command)
            case AbortTransfer() as command:
                self._transfers.abort(command)
            case QueryCopy() as question:
                self._transfers.copy_asked(question)
            case SwitchoverGranted() | SwitchoverDenied() | SwitchoverState() as answer:
                self._transfers.answered(answer, question=envelope.causationid, sent_at=envelope.time)
            case DescribeVm() | CheckVm() | ProvisionVm() | DisconnectVm() | EraseQuarantine() as command:
                self._tasks.spawn(self._answer(envelope, command), name=type(command).__name__)
            case CloseExtension() as command if self._network is not None:
                self._tasks.spawn(self._network.close_extension(command), name="close an extension")
            case other:
                raise Reject("unexpected_message", f"a node has no use for {type(other).__name__}")

    def _check(self, agreement: ServiceChangeAgreement, provider: str, name: str) -> None:
        if (provider, name) != (self._party.owner, self._party.node):
            raise Reject("wrong_node", f"port {agreement.port_id} is for node {provider}/{name}, this is {self._party}")

    async def _answer(self, envelope: AnyEnvelope, command: ShortCommand) -> None:
        answer = await self._do(command)
        self._messenger.enqueue(envelope.sender, answer, cause=envelope)

    async def _do(self, command: ShortCommand) -> PortMessage:
        match command:
            case DescribeVm():
                return await self._commands.describe(command)
            case CheckVm():
                return await self._commands.check(command)
            case ProvisionVm():
                active = self._transfers.active(command.port_id)
                if active is not None and not active.arrived:
                    return _busy(command.port_id, Side.INBOUND)
                answer = await self._commands.provision(command)
                if isinstance(answer, VmProvisioned):
                    self._transfers.provisioned(command.port_id)
                return answer
            case DisconnectVm():
                # A transfer that is still ending keeps files and domain in use.
                if self._transfers.active(command.port_id) is not None:
                    return _busy(command.port_id, Side.OUTBOUND)
                return await self._commands.disconnect(command)
            case EraseQuarantine(port_id=port_id):
                return await self._commands.erase(port_id)


def _busy(port_id: UUID, side: Side) -> CompletionFailed:
    return CompletionFailed(port_id=port_id, side=side, code="busy", detail="the transfer is still ending here")
