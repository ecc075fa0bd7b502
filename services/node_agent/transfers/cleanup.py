"""Removes what an attempt created, by the ids in its journal, and nothing else. Says what it could not remove."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from services.node_agent.hypervisor import disk_images
from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import Kind, Made, Phase, PortRecord, TransferJournal
from shared.logs import get_logger
from shared.messages.porting import Side

log = get_logger(__name__)

_ORDER = (Kind.DOMAIN, Kind.DISK, Kind.NVRAM, Kind.MEMORY, Kind.TPM, Kind.SECRET, Kind.DIRECTORY)
"""A domain first: it holds the disks open and would write to them."""
_DOMAINS_FILES = frozenset({Kind.DISK, Kind.NVRAM, Kind.MEMORY, Kind.TPM, Kind.SECRET})


async def remove_created(journal: TransferJournal, hypervisor: Hypervisor) -> tuple[str, ...]:
    """Remove all that the journal lists; return the names of what is still there, which stays in the journal."""
    return await _remove_listed(journal.record.made, journal, hypervisor)


async def remove_left(journal: TransferJournal, hypervisor: Hypervisor) -> tuple[str, ...]:
    """Remove what is `still_to_remove`; return the names of what is still there, which stays in the journal."""
    return await _remove_listed(still_to_remove(journal.record), journal, hypervisor)


async def _remove_listed(things: Iterable[Made], journal: TransferJournal, hypervisor: Hypervisor) -> tuple[str, ...]:
    gone, remaining = await remove(things, journal.record, hypervisor)
    forget(journal, *gone)
    return remaining


async def remove(
    things: Iterable[Made], record: PortRecord, hypervisor: Hypervisor
) -> tuple[tuple[Made, ...], tuple[str, ...]]:
    """Remove these of a record; return what is gone, and the names of what is still there.

    Disks and the VM's other files go only after the domain: one that could not be destroyed may run, and would write to
    unlinked files.
    """
    gone, remaining, domain_gone = [], [], True
    disks = tuple(disk.path for disk in record.agreement.disks)
    for thing in sorted(things, key=lambda made: _ORDER.index(made.kind)):
        if thing.kind in _DOMAINS_FILES and not domain_gone:
            remaining.append(f"{thing.kind} {thing.id}")
            continue
        try:
            await _remove(thing, hypervisor, disks, record.port_id)
        except (HypervisorError, disk_images.DiskImageError, OSError) as error:
            log.warning("clean-up incomplete", kind=thing.kind, id=thing.id, error=str(error))
            remaining.append(f"{thing.kind} {thing.id}")
            domain_gone = domain_gone and thing.kind is not Kind.DOMAIN
        else:
            gone.append(thing)
    return tuple(gone), tuple(remaining)


def still_to_remove(record: PortRecord) -> tuple[Made, ...]:
    """What of an ended transfer's record is to be removed, although that has failed before.

    Of a guest that has arrived, or that may have run here, nothing goes but the directory of its sockets.
    """
    if record.side is Side.OUTBOUND or record.phase is Phase.FAILED:
        return record.made
    return tuple(thing for thing in record.made if thing.kind is Kind.DIRECTORY)


def forget(journal: TransferJournal, *gone: Made) -> None:
    """Store that these are gone. Where that cannot be written, they are looked for again later."""
    try:
        journal.discard(*gone)
    except OSError as error:
        log.warning("what is gone stays listed", port_id=str(journal.record.port_id), error=str(error))


def forget_directory(journal: TransferJournal) -> None:
    """Store that the directory of the sockets is gone."""
    forget(journal, *(thing for thing in journal.record.made if thing.kind is Kind.DIRECTORY))


async def _remove(thing: Made, hypervisor: Hypervisor, disks: tuple[str, ...], port_id: UUID) -> None:
    match thing.kind:
        case Kind.DOMAIN:
            # Ours is transient, and has our disks. Another one of this UUID may have come since, and is left alone.
            await hypervisor.destroy_created(UUID(thing.id), disks=disks)
        case Kind.DISK | Kind.NVRAM | Kind.MEMORY:
            await asyncio.to_thread(disk_images.remove, thing.id)
        case Kind.TPM:
            # Ours is gone. The folder is by the UUID, so that it is another one's that has come since.
            if await hypervisor.state(UUID(Path(thing.id).name)) is None:
                await asyncio.to_thread(_remove_folder, Path(thing.id))
        case Kind.SECRET:
            # One that was there before the port has its UUID by chance or by malice, and is somebody's.
            await hypervisor.secrets.discard(UUID(thing.id), owner=port_id)
        case Kind.DIRECTORY:
            await asyncio.to_thread(shutil.rmtree, thing.id, ignore_errors=True)


def _remove_folder(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
