"""``vmport network``: how a VM keeps its addresses after a port, and the end of the donor's help."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from shared.client.network_tables import network_tables
from shared.client.port_commands import PortArgument
from shared.client.resolve import NotFound, find_port, find_vm, whole_id
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.messages.addresses import NetworkShown

app = typer.Typer(help="Addresses of your VMs: how they are kept in a port, and until when.", no_args_is_help=True)


@app.command("show")
def show_network(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="PORT|VM", help="Id of a port, or a VM: its newest port that keeps addresses.")
    ],
) -> None:
    """Show how a VM keeps its addresses: the mode, each address, the donor's help and its end, what nodes reported.

    JSON: a NetworkShown.
    """
    session: Session = context.obj
    shown = session.run(lambda client: _shown(client, what))
    session.answer(shown, *network_tables(shown))


async def _shown(client: TenantClient, what: str) -> NetworkShown:
    """A VM's own name first, then ports, then the beginning of a VM's id."""
    vms = await client.vms()
    if all(what not in {vm.name, str(vm.uuid)} for vm in vms):
        if (port_id := whole_id(what)) is not None:
            return await client.network(port_id=port_id)
        with contextlib.suppress(NotFound):
            return await client.network(port_id=find_port(what, await client.ports(limit=1000)))
    return await client.network(vm_uuid=find_vm(what, vms).uuid)


@app.command("end")
def end_extension(context: typer.Context, port: PortArgument) -> None:
    """End the donor's help with the addresses of a port that has completed. They no longer lead to the VM by it.

    Returns when both nodes are told; 'vmport network show' tells when both have closed it. One that ends already is no
    error.

    JSON: a NetworkShown.
    """
    session: Session = context.obj

    async def end(client: TenantClient) -> NetworkShown:
        port_id = whole_id(port) or find_port(port, await client.ports(limit=1000))
        return await client.end_extension(port_id)

    shown = session.run(end)
    session.answer(shown, *network_tables(shown))
