"""VMs that were ported, as a broker's ledger has them: for tests of what is told about their whereabouts."""

from __future__ import annotations

from uuid import UUID

from services.broker import ledger, registry
from services.broker.saga import CommitEpoch
from shared.messages.network import NetworkPlan
from shared.messages.nodes import InventoryReported, OwnedVm
from shared.messages.vm import VmState, VmSummary
from shared.parties import Name
from shared.store import Store
from tests.support.broker_samples import Conversation, networked_identity, request

ADDRESSES = ("192.0.2.7", "2001:db8::7")
"""Of each of them."""


async def add_vm(store: Store, vm_uuid: UUID, name: str, *, provider: Name = "alpha") -> None:
    """Another VM of acme, in an inventory of its own: what it does not list is not missing at once."""
    summary = VmSummary(
        uuid=vm_uuid, name=name, state=VmState.RUNNING, memory_bytes=2**29, vcpus=1, disk_bytes=2**31, macs=()
    )
    owned = OwnedVm(vm=summary, tenant="acme", node=f"{provider}-1")
    async with store.transaction() as tx:
        await registry.take_inventory(tx, provider, InventoryReported(at=store.clock(), vms=(owned,)))


async def port_vm(
    store: Store, vm_uuid: UUID, *, epoch: int, to: Name, port_id: UUID, planned: NetworkPlan | None = None
) -> None:
    """A port of the VM has committed this epoch, with or without a plan for its addresses."""
    state = Conversation.begin(request()).completed().state
    assert state.agreement is not None
    state = state.with_(
        request=state.request.model_copy(update={"vm_uuid": vm_uuid, "port_id": port_id}),
        identity=networked_identity(),
        agreement=state.agreement.model_copy(update={"network": planned}),
    )
    async with store.transaction() as tx:
        await ledger.add(tx, state)
        await ledger.commit_epoch(tx, CommitEpoch(vm_uuid, epoch, to, f"{to}-1"), port_id)
