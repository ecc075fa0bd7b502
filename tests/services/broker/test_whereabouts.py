"""Who serves a VM, at which addresses, by which epoch."""

from __future__ import annotations

from uuid import UUID

import pytest
from sqlalchemy import insert

from services.broker import queries
from services.broker.tables import dns_names
from services.broker.whereabouts import whereabouts
from shared.messages.addresses import LocateVm, VmLocated
from shared.messages.queries import QueryFailed
from shared.store import Store
from tests.support.broker_samples import PORT, VM, plan
from tests.support.ported_vms import ADDRESSES, port_vm

OTHER_PORT = UUID(int=77)


async def ask(store: Store, tenant: str, vm_uuid: UUID = VM) -> VmLocated | QueryFailed:
    """A tenant's question."""
    async with store.reading() as connection:
        answer = await queries.answer(connection, LocateVm(vm_uuid=vm_uuid), tenant)
    assert isinstance(answer, VmLocated | QueryFailed)
    return answer


async def test_a_vm_that_was_never_ported(store: Store) -> None:
    """Its owner and epoch are known; its addresses nobody has told."""
    told = await ask(store, "acme")
    assert isinstance(told, VmLocated)
    assert (told.provider, told.node, told.epoch, told.addresses, told.dns_epoch) == ("alpha", "alpha-1", 1, (), None)


@pytest.mark.parametrize("has_plan", [True, False])
async def test_the_newest_port_says_where_it_is(store: Store, *, has_plan: bool) -> None:
    """By the agreement's plan, or by what the donor described where nothing was planned."""
    await port_vm(store, VM, epoch=2, to="beta", port_id=PORT, planned=plan("extend") if has_plan else None)
    told = await ask(store, "acme")
    assert isinstance(told, VmLocated)
    assert (told.provider, told.node, told.epoch, told.addresses) == ("beta", "beta-1", 2, ADDRESSES)
    async with store.reading() as connection:
        place = await whereabouts(connection, VM)
    assert place is not None
    assert place.ported_by == PORT


async def test_addresses_that_an_earlier_port_knew_stay_true(store: Store) -> None:
    """A port keeps them, also one that was told none."""
    planned = plan("joined")
    nothing = planned.model_copy(
        update={
            "cards": tuple(
                each.model_copy(update={"card": each.card.model_copy(update={"addresses": ()})})
                for each in planned.cards
            )
        }
    )
    await port_vm(store, VM, epoch=2, to="beta", port_id=PORT, planned=planned)
    await port_vm(store, VM, epoch=3, to="gamma", port_id=OTHER_PORT, planned=nothing)
    told = await ask(store, "acme")
    assert isinstance(told, VmLocated)
    assert (told.provider, told.epoch, told.addresses) == ("gamma", 3, ADDRESSES)


async def test_only_its_tenant_is_told(store: Store) -> None:
    """Another one cannot tell the VM from none."""
    foreign, none = await ask(store, "globex"), await ask(store, "globex", UUID(int=5))
    assert isinstance(foreign, QueryFailed)
    assert isinstance(none, QueryFailed)
    assert foreign.detail.replace(str(VM), "") == none.detail.replace(str(UUID(int=5)), "")


async def test_its_name_in_dns(store: Store) -> None:
    """With the epoch by which DNS answers, which may be older."""
    await port_vm(store, VM, epoch=2, to="beta", port_id=PORT)
    row = {"vm_uuid": VM, "zone": "vm.example", "label": "web", "epoch": 1, "written": "", "ttl_s": 10}
    async with store.transaction() as tx:
        await tx.execute(insert(dns_names).values(**row))
    told = await ask(store, "acme")
    assert isinstance(told, VmLocated)
    assert (told.dns_name, told.dns_epoch) == ("", None)
    async with store.transaction() as tx:
        await tx.execute(dns_names.update().values(written="epoch=1"))
    told = await ask(store, "acme")
    assert isinstance(told, VmLocated)
    assert (told.dns_name, told.dns_epoch) == ("web.vm.example", 1)
