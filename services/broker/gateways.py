"""Gateways of neutral prefixes: each is told where a VM is served, and told again until it has answered.

What a gateway has not answered is a stored deadline with the message in it, one for each gateway and VM. A newer word
about the VM replaces the older one; the gateway itself refuses an older epoch.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from services.broker import ledger
from shared.bus import Reject
from shared.logs import get_logger, port_bound
from shared.messages import Envelope
from shared.messages.addresses import AddressesServed, ServeAddresses
from shared.parties import Party
from shared.store import Timer, Transaction

log = get_logger(__name__)

PREFIX = "gateway:"
"""Of the keys of open words to gateways."""
FIRST_RETRY = timedelta(seconds=5)
LONGEST_RETRY = timedelta(minutes=10)


def timer_key(gateway: str, vm_uuid: UUID) -> str:
    """The key of the timer at which a gateway is told again."""
    return f"{PREFIX}{gateway}:{vm_uuid}"


async def told(tx: Transaction, gateway: Party, message: ServeAddresses) -> None:
    """A gateway is told in this transaction, and is to answer."""
    await _expect(tx, str(gateway), message, 0)


async def served(tx: Transaction, envelope: Envelope[AddressesServed]) -> None:
    """A gateway sends the VM's packets to its owner. Raises `Reject` for a node that is no gateway of the port."""
    answer = envelope.data
    stored = await ledger.look(tx.connection, answer.port_id)
    if stored is None:
        raise Reject("unknown_port", f"there is no port {answer.port_id}")
    if envelope.source not in stored.state.gateways:
        raise Reject("not_a_party", f"{envelope.source} is no gateway of port {answer.port_id}")
    state = stored.state
    known = "" if answer.epoch == state.epoch else f"; the ledger has epoch {state.epoch}"
    line = ledger.Event(
        sender=envelope.source,
        type=type(answer).__name__,
        phase=state.phase,
        verdict="handled",
        detail=f"serves epoch {answer.epoch}{known}",
        message_id=envelope.id,
        body=answer.model_dump_json(),
    )
    await ledger.record(tx, answer.port_id, line)
    payload = await tx.take_timer(timer_key(envelope.source, answer.vm_uuid))
    if payload is not None:
        asked = ServeAddresses.model_validate_json(str(payload["message"]))
        if asked.epoch > answer.epoch:
            # An answer to an earlier word: the newer one is still open.
            await _expect(tx, envelope.source, asked, int(payload["retries"]))


async def time_passed(tx: Transaction, timer: Timer) -> None:
    """A gateway has not answered: tell it again."""
    gateway = timer.key.removeprefix(PREFIX).rpartition(":")[0]
    message = ServeAddresses.model_validate_json(str(timer.payload["message"]))
    retries = int(timer.payload["retries"]) + 1
    with port_bound(message.port_id):
        log.warning("gateway silent; telling it again", gateway=gateway, vm=str(message.vm_uuid), retries=retries)
        await tx.send(Party.parse(gateway), message, correlation_id=message.port_id)
        await _expect(tx, gateway, message, retries)


async def _expect(tx: Transaction, gateway: str, message: ServeAddresses, retries: int) -> None:
    due_at = tx.now + min(LONGEST_RETRY, FIRST_RETRY * (1 << min(retries, 20)))
    payload = {"message": message.model_dump_json(), "retries": retries}
    await tx.arm(timer_key(gateway, message.vm_uuid), due_at, payload)
