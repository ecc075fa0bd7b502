"""The kernel's network over netlink: links, addresses, routes, neighbours. The one place that knows pyroute2.

Every call does what it says whether or not it was done before; what is not there is gone already. Errors of the kernel
become `NetlinkError`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pyroute2 import AsyncIPRoute, netlink
from pyroute2.requests.main import RequestProcessor

from shared.errors import VmportError

NTF_PROXY = 0x08
IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80
NUD_UNANSWERED = 0x01 | 0x20 | 0x40  # incomplete, failed, and what needs no answer, such as a multicast address
RT_SCOPE_LINK = 253
RT_SCOPE_NOWHERE = 255
MAIN_TABLE = 254
METRIC = 19


_BRIDGE = {"br_forward_delay": 0, "br_stp_state": 0, "br_mcast_snooping": 0}
"""Forwards at once, and all groups: one card is on it, and this host must hear whom the guest asks for."""


class NetlinkError(VmportError):
    """The kernel refused a change of the network."""

    code = "network_change_refused"


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `kind` is empty for a physical one; `master` is the bridge that it is a port of."""

    name: str
    index: int
    mac: str
    mtu: int
    kind: str
    master: str | None
    up: bool


@dataclass(frozen=True, slots=True)
class NeighbourEntry:
    """An entry of the neighbour table; `proxy` where this host answers for the address."""

    address: str
    device: str
    mac: str | None
    proxy: bool = False


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """A route. `device` or `via` may be missing."""

    destination: str
    device: str | None
    via: str | None
    table: int
    protocol: int
    metric: int = 0


class Netlink:
    """One netlink socket. Use as ``async with Netlink() as kernel``. Not for two tasks at once."""

    def __init__(self, *, protocol: int = 70) -> None:
        """`protocol` marks the routes that are made here."""
        self._ip = AsyncIPRoute()
        self._protocol = protocol

    async def __aenter__(self) -> Self:
        try:
            await self._ip.setup_endpoint()
        except OSError as error:
            raise NetlinkError(f"no netlink socket: {error}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip.close()

    # ---- links ----

    async def links(self) -> tuple[Link, ...]:
        """All devices."""
        found = [message async for message in await self._ip.get_links()]
        names = {message["index"]: str(message.get("ifname")) for message in found}
        return tuple(_link(message, names) for message in found)

    async def link(self, name: str) -> Link | None:
        """One device; None where there is none of this name."""
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return None
        message: Any = None
        with _refusal(f"read {name}", gone=(errno.ENODEV,)):
            message = next(iter(await self._ip.link("get", index=index)))
        return None if message is None else _link(message, _name_of(message.get("master")))

    async def add_bridge(self, name: str, *, mac: str | None, mtu: int) -> None:
        """Make a bridge that forwards at once, and have it up; one that is there gets this MAC and MTU."""
        there = await self.link(name)
        if there is not None and there.kind != "bridge":
            raise NetlinkError(f"{name} is there, and is no bridge")
        with _refusal(f"make bridge {name}"):
            if there is None:
                await self._ip.link("add", ifname=name, kind="bridge", **_BRIDGE)
            # A bridge without ports has no MTU of its own kept unless it is set before it is up.
            more = {} if mac is None else {"address": mac}
            await self._ip.link("set", index=self._index(name), mtu=mtu, state="up", **more)

    async def delete_link(self, name: str) -> None:
        """Remove a device."""
        there = await self.link(name)
        if there is None:
            return
        with _refusal(f"remove {name}", gone=(errno.ENODEV,)):
            await self._ip.link("del", index=there.index)

    async def join_bridge(self, name: str, bridge: str, *, mtu: int | None = None) -> None:
        """Make a device a port of a bridge, and have it up."""
        more = {} if mtu is None else {"mtu": mtu}
        with _refusal(f"join {name} to {bridge}"):
            await self._ip.link("set", index=self._index(name), master=self._index(bridge), state="up", **more)

    async def set_queue(self, name: str, frames: int) -> None:
        """How many frames may wait at a device, which keeps those that wait already as far as there is room."""
        with _refusal(f"set the queue of {name}"):
            await self._ip.link("set", index=self._index(name), txqlen=frames)

    # ---- addresses ----

    async def addresses(self, device: str) -> tuple[str, ...]:
        """A device's addresses with the lengths of their prefixes, such as 10.81.1.1/24; link-local ones, too."""
        there = await self.link(device)
        if there is None:
            return ()
        shown = await self._ip.get_addr(index=there.index)
        return tuple([f"{each.get('address')}/{each['prefixlen']}" async for each in shown])

    async def add_address(self, device: str, address: str) -> None:
        """Give a device an address for itself alone (/32 or /128), without duplicate address detection."""
        with _refusal(f"give {device} the address {address}"):
            await self._ip.addr("replace", index=self._index(device), **_host_address(address))

    async def delete_address(self, device: str, address: str) -> None:
        """Take an address from a device."""
        there = await self.link(device)
        if there is not None:
            with _refusal(f"take {address} from {device}", gone=(errno.EADDRNOTAVAIL, errno.ENODEV)):
                await self._ip.addr("del", index=there.index, **_host_address(address))

    # ---- routes ----

    async def replace_route(
        self,
        destination: str,
        *,
        device: str | None = None,
        via: str | None = None,
        table: int = MAIN_TABLE,
        metric: int = METRIC,
    ) -> None:
        """Have one route of this metric to a prefix in a table."""
        wanted: dict[str, Any] = {"dst": destination, "table": table, "proto": self._protocol, "priority": metric}
        if device is not None:
            wanted["oif"] = self._index(device)
            if via is None and ":" not in destination:
                wanted["scope"] = RT_SCOPE_LINK
        if via is not None:
            wanted["gateway"] = via
        with _refusal(f"set the route to {destination} in table {table}"):
            await self._ip.route("replace", **wanted)

    async def delete_route(self, destination: str, *, table: int = MAIN_TABLE, metric: int = METRIC) -> None:
        """Remove the route of this metric to a prefix from a table, if it is one of ours."""
        with _refusal(f"remove the route to {destination} in table {table}", gone=(errno.ESRCH, errno.ENODEV)):
            any_scope = {} if ":" in destination else {"scope": RT_SCOPE_NOWHERE}
            await self._ip.route(
                "del", dst=destination, table=table, proto=self._protocol, priority=metric, **any_scope
            )

    async def routes(self, table: int) -> tuple[RouteEntry, ...]:
        """All routes of a table, of both families."""
        names = {link.index: link.name for link in await self.links()}
        found: list[RouteEntry] = []
        for family in (2, 10):
            shown = await self._ip.get_routes(family=family, table=table)
            found += [
                _route(each, names, table) async for each in shown if (each.get("table") or each["table"]) == table
            ]
        return tuple(found)

    # ---- neighbours ----

    async def neighbours(self, device: str) -> tuple[NeighbourEntry, ...]:
        """Who has answered on a device, of both families."""
        there = await self.link(device)
        if there is None:
            return ()
        found = [
            NeighbourEntry(str(message.get("dst")), device, message.get("lladdr"))
            async for message in self._dump_neighbours(flags=0)
            if message["ifindex"] == there.index
            and message.get("lladdr") is not None
            and not message["state"] & NUD_UNANSWERED
        ]
        return tuple(found)

    async def proxies(self, device: str) -> tuple[NeighbourEntry, ...]:
        """For which addresses this host answers on a device."""
        there = await self.link(device)
        found = [
            NeighbourEntry(str(message.get("dst")), device, None, proxy=True)
            async for message in self._dump_neighbours(flags=NTF_PROXY)
            if there is not None and message["ifindex"] == there.index and message["flags"] & NTF_PROXY
        ]
        return tuple(found)

    async def _dump_neighbours(self, *, flags: int) -> AsyncIterator[Any]:
        for family in (2, 10):
            asked = {"family": family, "flags": flags}
            # As the request itself: else pyroute2 asks without flags, and looks for them in the answers.
            request = RequestProcessor(context=asked, prime=asked)
            async for message in await self._ip.neigh("dump", dump_filter=None, request_filter=request):
                yield message

    async def add_proxy(self, device: str, address: str) -> None:
        """Answer for an address on a device."""
        with _refusal(f"answer for {address} on {device}", gone=(errno.EEXIST,)):
            await self._ip.neigh(
                "add", dst=address, ifindex=self._index(device), flags=NTF_PROXY, family=_family(address)
            )

    async def delete_proxy(self, device: str, address: str) -> None:
        """Do not answer for it any more."""
        there = await self.link(device)
        if there is not None:
            with _refusal(f"stop answering for {address} on {device}", gone=(errno.ENOENT, errno.ENODEV)):
                await self._ip.neigh("del", dst=address, ifindex=there.index, flags=NTF_PROXY, family=_family(address))

    async def set_neighbour(self, device: str, address: str, mac: str) -> None:
        """Know a neighbour without asking."""
        with _refusal(f"set neighbour {address} on {device}"):
            await self._ip.neigh(
                "replace",
                dst=address,
                lladdr=mac,
                ifindex=self._index(device),
                state=NUD_PERMANENT,
                family=_family(address),
            )

    async def delete_neighbour(self, device: str, address: str) -> None:
        """Forget a neighbour."""
        there = await self.link(device)
        if there is not None:
            with _refusal(f"forget neighbour {address} on {device}", gone=(errno.ENOENT, errno.ENODEV)):
                await self._ip.neigh("del", dst=address, ifindex=there.index, family=_family(address))

    def _index(self, name: str) -> int:
        """By the kernel's own look-up: reading all devices, for each change, kept this process's event loop busy for
        longer than the changes take.
        """
        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            raise NetlinkError(f"there is no device {name}") from error


@contextmanager
def _refusal(what: str, *, gone: tuple[int, ...] = ()) -> Iterator[None]:
    """The kernel's errors as ours; those in `gone` say that there is nothing to do."""
    try:
        yield
    except netlink.exceptions.NetlinkError as error:
        if error.code not in gone:
            raise NetlinkError(f"cannot {what}: {error}") from error
    except OSError as error:
        raise NetlinkError(f"cannot {what}: {error}") from error


def _link(message: Any, names: dict[int, str]) -> Link:
    info = message.get("linkinfo")
    master = message.get("master")
    return Link(
        name=str(message.get("ifname")),
        index=int(message["index"]),
        mac=str(message.get("address") or ""),
        mtu=int(message.get("mtu") or 0),
        kind=str((info.get("kind") if info is not None else None) or ""),
        master=names.get(master) if master else None,
        up=bool(message["flags"] & 1),
    )


def _name_of(index: int | None) -> dict[int, str]:
    """The name of one device; empty where it is none, or is gone."""
    try:
        return {index: socket.if_indextoname(index)} if index else {}
    except OSError:
        return {}


def _route(message: Any, names: dict[int, str], table: int) -> RouteEntry:
    length = int(message["dst_len"])
    anywhere = "::" if message["family"] == 10 else "0.0.0.0"  # noqa: S104 - a prefix, nothing listens there
    return RouteEntry(
        destination=f"{message.get('dst') or anywhere}/{length}",
        device=names.get(message.get("oif") or 0),
        via=message.get("gateway"),
        table=table,
        protocol=int(message["proto"]),
        metric=int(message.get("priority") or 0),
    )


def _host_address(address: str) -> dict[str, Any]:
    six = _family(address) == 10
    return (
        {"address": address, "prefixlen": 128, "flags": IFA_F_NODAD} if six else {"address": address, "prefixlen": 32}
    )


def _family(address: str) -> int:
    return 10 if ipaddress.ip_address(address).version == 6 else 2
