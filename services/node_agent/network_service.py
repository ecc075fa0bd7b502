"""What the node hears and says about VMs' addresses: the end of an extension, and for gateways where VMs are served."""

from __future__ import annotations

from services.node_agent.messenger import Messenger
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.served import ServedVms
from shared.errors import VmportError
from shared.logs import get_logger, port_bound
from shared.messages.addresses import (
    AddressesServed,
    CloseExtension,
    ExtensionClosed,
    NetworkReported,
    NetworkState,
    ServeAddresses,
)
from shared.messages.porting import ServiceChangeAgreement
from shared.parties import BROKER

log = get_logger(__name__)


class NetworkReports:
    """Tells the broker how far this node is with a VM's addresses; what it says arrives."""

    def __init__(self, messenger: Messenger) -> None:
        self._messenger = messenger

    def __call__(self, agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
        """Raises nothing: a port does not fail because nobody can be told how its network is."""
        told = NetworkReported(port_id=agreement.port_id, epoch=agreement.epoch, state=state, detail=detail)
        try:
            self._messenger.enqueue(BROKER, told)
        except OSError as error:
            log.error("network state not told", state=state, error=str(error))  # noqa: TRY400  # a full disk


class NetworkCommands:
    """Carries out the broker's commands about extensions."""

    def __init__(self, keeper: NetworkKeeper, messenger: Messenger) -> None:
        self._keeper = keeper
        self._messenger = messenger

    async def close_extension(self, command: CloseExtension) -> None:
        """Do it and answer. What fails is not answered: the broker asks again."""
        with port_bound(command.port_id):
            try:
                left = await self._keeper.close_extension(command.port_id)
                closed = ExtensionClosed(port_id=command.port_id, epoch=command.epoch, left_overs=left)
                self._messenger.enqueue(BROKER, closed)
            except (VmportError, OSError) as error:
                log.error("extension not closed", error=str(error))  # noqa: TRY400  # of the kernel or the disk


async def serve_addresses(command: ServeAddresses, served: ServedVms, messenger: Messenger) -> None:
    """Carry out a gateway's command and answer. What fails is not answered: the broker asks again."""
    with port_bound(command.port_id):
        try:
            epoch = await served.serve(command)
            answer = AddressesServed(port_id=command.port_id, vm_uuid=command.vm_uuid, epoch=epoch)
            messenger.enqueue(BROKER, answer)
        except (VmportError, OSError) as error:
            log.error("addresses not served", vm=str(command.vm_uuid), error=str(error))  # noqa: TRY400  # as above
