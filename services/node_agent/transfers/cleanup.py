"""Removes what an attempt created, by the ids in its journal, and nothing else. Says what it could not remove."""

from __future__ import annotations

import asyncio
import shutil
from uuid import UUID

from services.node_agent.hypervisor import disk_images
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import Kind, Made, TransferJournal
from shared.logs import get_logger

log = get_logger(__name__)

_ORDER = (Kind.DOMAIN, Kind.DISK, Kind.DIRECTORY)
"""A domain first: it holds the disks open and would write to them."""


async def remove_created(journal: TransferJournal, hypervisor: Hypervisor) -> tuple[str, ...]:
    """Remove it all; return the names of what is still there, which stays in the journal.

    Disks go only after the domain: one that could not be destroyed may run, and would write to unlinked files.
    """
    remaining = []
    domain_gone = True
    for thing in sorted(journal.record.made, key=lambda made: _ORDER.index(made.kind)):
        if thing.kind is Kind.DISK and not domain_gone:
            remaining.append(f"{thing.kind} {thing.id}")
            continue
        try:
            await _remove(thing, hypervisor)
        except (HypervisorError, disk_images.DiskImageError, OSError) as error:
            log.warning("clean-up incomplete", kind=thing.kind, id=thing.id, error=str(error))
            remaining.append(f"{thing.kind} {thing.id}")
            domain_gone = domain_gone and thing.kind is not Kind.DOMAIN
        else:
            journal.discard(thing)
    return tuple(remaining)


async def _remove(thing: Made, hypervisor: Hypervisor) -> None:
    match thing.kind:
        case Kind.DOMAIN:
            # The incomplete domain is transient: destroying it is all.
            await hypervisor.destroy(UUID(thing.id))
        case Kind.DISK:
            await asyncio.to_thread(disk_images.remove, thing.id)
        case Kind.DIRECTORY:
            await asyncio.to_thread(shutil.rmtree, thing.id, ignore_errors=True)
