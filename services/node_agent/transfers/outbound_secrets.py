"""The donor's side of the handover: which secrets the VM's encrypted disks and TPM have, and their values.

A value is read from libvirt when the port's window is open and the recipient's node has proven itself, not before, and
is forgotten as soon as it is handed over.
"""

from __future__ import annotations

from uuid import UUID

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import Hypervisor, LiveVm, SecretError
from services.node_agent.hypervisor.luks import LuksOptions, luks_options
from services.node_agent.lanes.session import LaneSession
from services.node_agent.transfers.secret_handover import HandedSecret, hand_over
from shared.domain import SecretUse, VmFacts, describe
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement

log = get_logger(__name__)


async def hand_over_secrets(
    vm: LiveVm, agreement: ServiceChangeAgreement, hypervisor: Hypervisor, control: LaneSession
) -> tuple[UUID, ...]:
    """Hand over what the recipient's definition needs; return which secrets of this host it was.

    Raises `HypervisorError`, LaneError.
    """
    facts = describe(vm.domain)
    devices = {use.device for use in facts.secrets}
    if devices != {use.device for use in describe(agreement.domain_xml).secrets}:
        raise SecretError("hand the VM's secrets over", "what is encrypted is not what was agreed")
    if not devices:
        return ()
    uuids = {use.device: await hypervisor.secrets.find(use) for use in facts.secrets}
    handed = {
        use.device: HandedSecret(
            await hypervisor.secrets.read(uuids[use.device]),
            await _luks(use, facts) if use.target else None,
        )
        for use in facts.secrets
    }
    await hand_over(control, handed)
    log.info("secrets handed over", devices=sorted(devices))
    return tuple(dict.fromkeys(uuids.values()))


async def _luks(use: SecretUse, facts: VmFacts) -> LuksOptions:
    image = next((disk.source for disk in facts.disks if disk.target == use.target), "")
    try:
        return await luks_options(image)
    except DiskImageError as error:
        raise SecretError(f"read how {use.device} is encrypted", error.reason) from error
