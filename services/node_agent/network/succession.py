"""What becomes of the records of earlier ports when a VM moves on: pure rules over records of one VM.

A VM that came here by one port and left by a later one may need both for a while. While this host helps with the later
port, packets reach the VM by what the earlier one has made: its bridge leads to the extension, its routes bring the
packets here. Once the next host announces the VM, these routes are marked as going, so that everybody takes the other
way; they are withdrawn some time after the help has ended, and then nothing of the earlier port is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.plan import Going
from shared.messages.network import NetworkMode
from shared.messages.porting import Side

_HELPED = frozenset({NetworkMode.EXTEND, NetworkMode.TRANSLATE})


def helps(record: NetworkRecord) -> bool:
    """Whether packets for the VM come by this host, and it passes them on to where the VM is."""
    carried = record.plan.terms.carry in _HELPED
    return record.side is Side.OUTBOUND and carried and not (record.closed or record.retired or record.undone)


def is_going(record: NetworkRecord) -> bool:
    """Whether the VM is announced elsewhere, and by this host, too, for a while."""
    return record.going in {Going.HELPED, Going.PASSED} and not record.undone


def retired(record: NetworkRecord, mine: Iterable[NetworkRecord], now: datetime) -> NetworkRecord:
    """As it is once a later port has taken back what it did. `mine` are all records of the VM."""
    later = (each for each in mine if each.agreement.epoch > record.agreement.epoch and helps(each))
    announced = record.side is Side.INBOUND and record.there and record.plan.terms.then_announce
    going = announced and any(each.plan.terms.then_announce for each in later)
    begins = {"going_since": now, "going": Going.HELPED} if going and record.going is None else {}
    return record.model_copy(update={"retired": True, **begins})


def overdue(record: NetworkRecord, mine: Iterable[NetworkRecord], now: datetime, after_s: float) -> bool:
    """Whether its routes have been going for long enough, and nobody needs them."""
    if record.going is not Going.PASSED or record.undone or record.going_since is None or any(map(helps, mine)):
        return False
    return now - record.going_since >= timedelta(seconds=after_s)


def removable(mine: Iterable[NetworkRecord]) -> tuple[NetworkRecord, ...]:
    """Those that no later port needs any more."""
    known = tuple(mine)
    helped = any(map(helps, known))
    return tuple(
        each for each in known if each.retired and (each.side is Side.OUTBOUND or not (helped or is_going(each)))
    )


def superseded(
    mine: Iterable[NetworkRecord], epoch: int, side: Side, now: datetime
) -> tuple[tuple[NetworkRecord, dict[str, Any]], ...]:
    """The records that a port of this epoch, by which the VM has moved at this side, changes; each with its news. What
    earlier ports did at the other side is taken back; routes that were going give way to its own.
    """
    known = tuple(mine)
    found: list[tuple[NetworkRecord, dict[str, Any]]] = []
    for record in known:
        if record.agreement.epoch >= epoch:
            continue
        if record.side is not side:
            after = retired(record, known, now)
            found.append((record, {"retired": True, "going_since": after.going_since, "going": after.going}))
        elif side is Side.INBOUND and is_going(record):
            found.append((record, {"going": Going.GONE}))
    return tuple(found)
