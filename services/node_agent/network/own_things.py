"""What in a kernel's network bears vmport's names, whether or not a record knows it; and what no record claims."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.netlink import Netlink
from services.node_agent.network.nft import Nft
from services.node_agent.network.plan import BRIDGE_PREFIX, EXTENSION_PREFIX, device_name, own_bridges
from services.node_agent.network.steps import ROUTES_PROTOCOL, ROUTES_TABLE, Bridge, NftTable, Route, Step

_FAMILIES: Final = ("ip", "ip6", "inet", "bridge", "netdev")


async def own_things(nft: Nft) -> tuple[Step, ...]:
    """All of it, as steps that can be undone; an extension's device counts as a bridge. Raises as they do."""
    tables = await nft.tables()
    found: list[Step] = [
        NftTable(family=family, name=name, objects=())
        for family in _FAMILIES
        for of, name in tables
        if of == family and name.startswith("vmport_")
    ]
    async with Netlink() as kernel:
        found += [
            Bridge(name=link.name)
            for link in await kernel.links()
            if link.name.startswith((BRIDGE_PREFIX, EXTENSION_PREFIX))
        ]
        found += [
            Route(
                destination=route.destination,
                device=route.device,
                via=route.via,
                table=ROUTES_TABLE,
                metric=route.metric,
            )
            for route in await kernel.routes(ROUTES_TABLE)
            if route.protocol == ROUTES_PROTOCOL
        ]
    return tuple(found)


def unclaimed(found: Iterable[Step], records: Iterable[NetworkRecord]) -> tuple[Step, ...]:
    """Those that belong to no record: they were left behind, or their record was lost."""
    known = set[str]()
    for record in records:
        known.update(str(step) for step in record.known)
        known.update(_key(step) for step in record.known)
        places = own_bridges(record.plan) if record.extension else ()
        known.update(f"bridge {device_name(EXTENSION_PREFIX, record.port_id, place)}" for place, _ in places)
    return tuple(step for step in found if _key(step) not in known)


def _key(step: Step) -> str:
    return f"route {step.destination} {step.table}" if isinstance(step, Route) else str(step)
