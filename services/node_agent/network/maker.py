"""Makes steps and undoes them, in the kernel. Knows how each is done, not why."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from services.node_agent.network.firewall import ROUTED
from services.node_agent.network.netlink import Netlink, NetlinkError
from services.node_agent.network.nft import Nft, NftError
from services.node_agent.network.steps import (
    Address,
    Bridge,
    Neighbour,
    NftTable,
    ProxyNeighbour,
    Queue,
    Route,
    Setting,
    Step,
)
from services.node_agent.network.translate import TRANSLATED

SYSCTLS = Path("/proc/sys/net")
TAP_QUEUE = 1000
"""Frames that a TAP device lets wait if nobody says otherwise; no hypervisor's settings do."""


class StepMaker:
    """Changes the network of the namespace in which this process runs."""

    def __init__(self, nft: Nft | None = None, *, sysctls: Path = SYSCTLS) -> None:
        self._nft = nft or Nft()
        self._sysctls = sysctls

    async def make(self, steps: Iterable[Step]) -> None:
        """Make all, in order; those that are made already stay. Raises `NetlinkError`, `NftError` at the first."""
        for is_tables, group in groupby(steps, lambda step: isinstance(step, NftTable)):
            if is_tables:
                await self._make_tables(group)
            else:
                async with Netlink() as kernel:
                    for step in group:
                        await self._make(kernel, step)

    async def undo(self, steps: Iterable[Step]) -> tuple[str, ...]:
        """Undo all, the last first, and go on after an error. Returns what could not be undone, by name."""
        remaining: list[str] = []
        for is_tables, group in groupby(reversed(tuple(steps)), lambda step: isinstance(step, NftTable)):
            together = tuple(group)
            if is_tables and await self._deleted(together):
                continue
            async with Netlink() as kernel:
                remaining += [problem for step in together if (problem := await self._undo_one(kernel, step))]
        return tuple(remaining)

    async def _deleted(self, tables: Iterable[Step]) -> bool:
        """In one go, or none."""
        try:
            await self._nft.delete_tables([(each.family, each.name) for each in tables if isinstance(each, NftTable)])
        except NftError:
            return False
        return True

    async def _undo_one(self, kernel: Netlink, step: Step) -> str | None:
        try:
            await self._undo(kernel, step)
        except (NetlinkError, NftError) as error:
            return f"{step}: {error}"
        return None

    async def taps(self, bridge: str) -> tuple[str, ...]:
        """A bridge's TAP devices. Raises `NetlinkError`."""
        async with Netlink() as kernel:
            links = await kernel.links()
        return tuple(link.name for link in links if link.master == bridge and link.kind == "tun")

    async def packets_routed(self, tables: Iterable[str]) -> int:
        """How many packets for the guest have come by this host's own uplink, by its guards. Raises `NftError`."""
        return sum([await self._nft.counted("inet", table, ROUTED) for table in tables])

    async def packets_translated(self, tables: Iterable[NftTable]) -> int:
        """How many packets these tables have translated; those that translate nothing count none. Raises `NftError`."""
        translating = [table for table in tables if table.family in {"ip", "ip6"}]
        return sum([await self._nft.counted(table.family, table.name, TRANSLATED) for table in translating])

    async def missing(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Those that are not made now, as far as the kernel shows it. Raises `NetlinkError`, `NftError`."""
        wanted = tuple(steps)
        tables = await self._nft.tables() if any(isinstance(step, NftTable) for step in wanted) else ()
        async with Netlink() as kernel:
            return tuple([step for step in wanted if not await self._is_made(kernel, step, tables)])

    async def _make(self, kernel: Netlink, step: Step) -> None:
        match step:
            case Bridge(name=name, mac=mac, mtu=mtu):
                await kernel.add_bridge(name, mac=mac, mtu=mtu)
            case Address(device=device, address=address):
                await kernel.add_address(device, address)
            case Route():
                await kernel.replace_route(
                    step.destination, device=step.device, via=step.via, table=step.table, metric=step.metric
                )
            case ProxyNeighbour(device=device, address=address):
                await kernel.add_proxy(device, address)
                self._answer_solicitations(step, wanted=True)
            case Neighbour(device=device, address=address, mac=mac):
                await kernel.set_neighbour(device, address, mac)
            case Setting():
                self._set(step)
            case Queue(device=device, frames=frames):
                await kernel.set_queue(device, frames)
            case NftTable():
                await self._make_tables([step])

    async def _make_tables(self, steps: Iterable[Step]) -> None:
        """In one go: each start of `nft` costs more than what it does."""
        tables = [(step.family, step.name, step.objects) for step in steps if isinstance(step, NftTable)]
        await self._nft.replace_tables(tables)

    async def _undo(self, kernel: Netlink, step: Step) -> None:
        match step:
            case Bridge(name=name):
                await kernel.delete_link(name)
            case Address(device=device, address=address):
                await kernel.delete_address(device, address)
            case Route(destination=destination, table=table, metric=metric):
                await kernel.delete_route(destination, table=table, metric=metric)
            case ProxyNeighbour(device=device, address=address):
                await kernel.delete_proxy(device, address)
                # The device is the provider's own, so what was set on it does not go with it.
                if not any(":" in entry.address for entry in await kernel.proxies(device)):
                    self._answer_solicitations(step, wanted=False)
            case Neighbour(device=device, address=address):
                await kernel.delete_neighbour(device, address)
            case Setting():
                pass  # goes with its device
            case Queue(device=device):
                if await kernel.link(device) is not None:
                    await kernel.set_queue(device, TAP_QUEUE)
            case NftTable(family=family, name=name):
                await self._nft.delete_table(family, name)

    async def _is_made(self, kernel: Netlink, step: Step, tables: tuple[tuple[str, str], ...]) -> bool:
        match step:
            case Bridge(name=name, mac=mac):
                link = await kernel.link(name)
                return link is not None and link.kind == "bridge" and mac in {None, link.mac}
            case Route(destination=destination, table=table):
                return any(route.destination == destination for route in await kernel.routes(table))
            case ProxyNeighbour(device=device, address=address):
                return any(entry.address == address for entry in await kernel.proxies(device))
            case NftTable(family=family, name=name):
                return (family, name) in tables
            case Address(device=device) | Neighbour(device=device) | Setting(device=device) | Queue(device=device):
                return await kernel.link(device) is not None

    def _answer_solicitations(self, step: ProxyNeighbour, *, wanted: bool) -> None:
        """For IPv6 the kernel answers only where its device is set to; a device that is gone needs none."""
        if ":" in step.address and (wanted or (self._sysctls / "ipv6" / "conf" / step.device).exists()):
            self._set(Setting(device=step.device, family="ipv6", name="proxy_ndp", value="1" if wanted else "0"))

    def _set(self, step: Setting) -> None:
        path = self._sysctls / step.family / "conf" / step.device / step.name
        try:
            path.write_text(step.value, encoding="ascii")
        except OSError as error:
            raise NetlinkError(f"cannot set {step}: {error.strerror}") from error
