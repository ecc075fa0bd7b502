"""``vmport vm`` and ``vmport provider``: what the broker's registry knows, and what a VM's provider says of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

import typer

from shared.client import render, vm_tables
from shared.client.errors import PortEndedOtherwise, PortNotAllowed
from shared.client.limits import NetworkChoice, limits_of
from shared.client.network_words import MODES_HELP
from shared.client.resolve import find_vm
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.client.vm_check import VmCheck, check_of, exit_code_of_shown, stopped
from shared.exit_codes import ExitCode
from shared.messages.base import Timestamp, Value
from shared.messages.queries import VmShown
from shared.messages.quote_lines import Part
from shared.messages.service_change import BEST, PortRequested

app = typer.Typer(help="Your virtual machines.", no_args_is_help=True)
providers = typer.Typer(help="Providers that can take a VM.", no_args_is_help=True)

VmArgument = Annotated[str, typer.Argument(metavar="VM", help="Name, UUID, or the first 4 or more characters of it.")]

RequireOption = Annotated[
    list[Part] | None,
    typer.Option(
        "--require", help="A part that must stay as it is at the donor, such as filter; all: nothing may be lost."
    ),
]

EjectOption = Annotated[
    list[str] | None,
    typer.Option("--eject", help="Leave this drive's medium behind, such as sda, or all; may be given several times."),
]

NetworkModeOption = Annotated[NetworkChoice, typer.Option("--network-mode", help=MODES_HELP)]

HorizonOption = Annotated[
    str, typer.Option("--horizon", help="Compare offers by their cost over this time: 12 or 12m is months, 1y a year.")
]

DowntimeCostOption = Annotated[
    str, typer.Option("--downtime-cost", help="What an hour without the VM costs you, such as 40.")
]

CurrencyOption = Annotated[
    str | None,
    typer.Option("--currency", help="The currency that you pay in, such as EUR; offers are compared in it."),
]

PLAN_TIMEOUT_S = 60.0


class VmPlace(Value):
    """What ``vm where`` answers with."""

    uuid: UUID
    name: str
    provider: str
    node: str
    epoch: int
    port_id: UUID | None
    since: Timestamp
    addresses: tuple[str, ...]
    dns_name: str
    dns_epoch: int | None


@app.command("list")
def list_vms(context: typer.Context) -> None:
    """List your VMs: where each runs, whether a port is under way, and which cannot be read.

    JSON: an array of RegisteredVm.
    """
    session: Session = context.obj
    vms = session.run(TenantClient.vms)
    session.answer(vms, vm_tables.vms_table(vms))


@app.command("show")
def show_vm(context: typer.Context, vm: VmArgument) -> None:
    """Show one VM: disks, network cards, firmware, CPU, sizes; whether it can leave, and what speaks against it.

    Its provider is asked, and nothing moves. Exit code 8: it did not answer; what the registry knows is shown.

    JSON: a VmShown.
    """
    session: Session = context.obj

    async def ask(client: TenantClient) -> VmShown:
        return await client.vm(find_vm(vm, await client.vms()).uuid)

    shown = session.run(ask)
    session.answer(shown, *vm_tables.vm_tables(shown))
    if shown.details is None:
        code = exit_code_of_shown(shown.refusals)
        session.say(f"vmport: the details of {shown.vm.name} are not known: {'; '.join(map(str, shown.refusals))}")
        raise typer.Exit(code)


@app.command("check")
def check_vm(
    context: typer.Context,
    vm: VmArgument,
    *,
    to: Annotated[str, typer.Option(help="A provider, or best: all are asked.")] = BEST,
    eject: EjectOption = None,
    require: RequireOption = None,
    network_mode: NetworkModeOption = NetworkChoice.AUTO,
) -> None:
    """Run the whole pre-flight of a port and move nothing: the donor's approval, the VM as it runs, every provider.

    Exit code 0: at least one provider that was asked can take it. 3: none can. 8: who decides did not answer.

    JSON: {vm_uuid, vm_name, donor, possible, refused_by, refusals, providers: [{provider, can_take, quote, refusals}]}.
    """
    session: Session = context.obj
    now = datetime.now().astimezone()
    limits = limits_of(eject=eject or (), require=require or (), network_mode=network_mode, now=now)

    async def ask(client: TenantClient) -> VmCheck:
        found = find_vm(vm, await client.vms())
        request = PortRequested(
            port_id=uuid4(), vm_uuid=found.uuid, donor=found.provider, recipient=to, limits=limits, dry_run=True
        )
        try:
            return check_of(found, await client.plan(request, timeout_s=max(PLAN_TIMEOUT_S, session.wait_s)))
        except (PortNotAllowed, PortEndedOtherwise) as error:
            return stopped(found, error)

    check = session.run(ask)
    session.answer(check, *vm_tables.check_tables(check))
    if check.exit_code is not ExitCode.OK:
        raise typer.Exit(check.exit_code)


@app.command("where")
def where_vm(context: typer.Context, vm: VmArgument) -> None:
    """Say who serves a VM now, at which addresses, by which epoch; and its name in DNS, if it has one.

    The first line is PROVIDER/NODE.

    JSON: {uuid, name, provider, node, epoch, port_id, since, addresses, dns_name, dns_epoch}.
    """
    session: Session = context.obj

    async def ask(client: TenantClient) -> VmPlace:
        found = find_vm(vm, await client.vms())
        at = await client.locate(found.uuid)
        return VmPlace(
            uuid=found.uuid, name=at.vm_name, port_id=found.port_id, **at.model_dump(exclude={"vm_uuid", "vm_name"})
        )

    place = session.run(ask)
    if session.as_json:
        session.write(render.json_text(render.as_json(place)))
        return
    session.write(f"{place.provider}/{place.node}")
    session.write(f"epoch {place.epoch} since {render.human_time(place.since)}")
    for address in place.addresses:
        session.write(f"address {address}")
    if place.dns_name:
        behind = "" if place.dns_epoch == place.epoch else f" (still by epoch {place.dns_epoch})"
        session.write(f"name {place.dns_name}{behind}")


@providers.command("list")
def list_providers(context: typer.Context) -> None:
    """List providers with their free capacity.

    JSON: an array of ProviderStatus.
    """
    session: Session = context.obj
    found = session.run(TenantClient.providers)
    session.answer(found, render.providers_table(found))
