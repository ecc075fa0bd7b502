"""``vmport vm`` and ``vmport provider``: what the broker's registry knows."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from shared.client import render
from shared.client.resolve import find_vm
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.messages.base import Value
from shared.messages.queries import RegisteredVm

app = typer.Typer(help="Your virtual machines.", no_args_is_help=True)
providers = typer.Typer(help="Providers that can take a VM.", no_args_is_help=True)

VmArgument = Annotated[str, typer.Argument(metavar="VM", help="Name, UUID, or the first 4 or more characters of it.")]


class VmPlace(Value):
    """What ``vm where`` answers with."""

    uuid: UUID
    name: str
    provider: str
    node: str
    epoch: int
    port_id: UUID | None


@app.command("list")
def list_vms(context: typer.Context) -> None:
    """List your VMs: where each runs, and whether a port is under way.

    JSON: an array of RegisteredVm.
    """
    session: Session = context.obj
    vms = session.run(TenantClient.vms)
    session.answer(vms, render.vms_table(vms))


@app.command("show")
def show_vm(context: typer.Context, vm: VmArgument) -> None:
    """Show one VM.

    JSON: a RegisteredVm.
    """
    session: Session = context.obj
    found = _found(session, vm)
    session.answer(found, render.vm_facts(found))


@app.command("where")
def where_vm(context: typer.Context, vm: VmArgument) -> None:
    """Say who serves a VM now, by the broker's registry.

    JSON: {uuid, name, provider, node, epoch, port_id}.
    """
    session: Session = context.obj
    found = _found(session, vm)
    if session.as_json:
        place = VmPlace.model_validate({name: getattr(found, name) for name in VmPlace.model_fields})
        session.write(render.json_text(render.as_json(place)))
    else:
        session.write(f"{found.provider}/{found.node}")


def _found(session: Session, vm: str) -> RegisteredVm:
    return find_vm(vm, session.run(TenantClient.vms))


@providers.command("list")
def list_providers(context: typer.Context) -> None:
    """List providers with their free capacity.

    JSON: an array of ProviderStatus.
    """
    session: Session = context.obj
    found = session.run(TenantClient.providers)
    session.answer(found, render.providers_table(found))
