"""The donor's side answers for VMs that have left: "moved", to whom, by which epoch; for a set time, over HTTP.

    GET /moved/192.0.2.7        by an address that a port has kept
    GET /moved/11111111-...     by the VM's id

200 with JSON, or 404 where no such VM has left, it has come back, or its time is up. It is for hosts in the VM's old
network that have an address and cannot ask the broker: the answer needs no broker, no DNS and no recipient. The files
that keep a VM from being started here say where it went; a port whose end is not known yet is no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from services.node_agent.network.plan import addresses_of
from services.node_agent.state.given_away import GivenAwayVm
from services.node_agent.state.journal import Journal, Phase, PortRecord
from shared.config import ConfigError, Problem
from shared.logs import get_logger
from shared.messages.porting import Side

log = get_logger(__name__)

_LEFT: Final = frozenset({Phase.DONE, Phase.QUARANTINED})


class MovedVms:
    """What is answered. Reads the files of this node's state; raises OSError where they cannot be read."""

    def __init__(
        self, journal: Journal, *, for_s: float, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._journal = journal
        self._for = timedelta(seconds=for_s)
        self._now = now

    def answer(self, who: str) -> dict[str, Any] | None:
        """Of a VM by its id, or by one of its addresses; None: nothing is known of it, or not any more."""
        for vm in self._journal.given_away.all():
            record = self._journal.get(vm.port_id, Side.OUTBOUND)
            if record is not None and record.phase not in _LEFT:
                continue
            addresses = _addresses(record)
            until = datetime.fromisoformat(vm.since) + self._for
            if who in {str(vm.vm_uuid), *addresses} and self._now() < until:
                return _told(vm, addresses, until)
        return None


def _addresses(record: PortRecord | None) -> tuple[str, ...]:
    plan = record.agreement.network if record is not None else None
    return tuple(address for card in plan.cards for address in addresses_of(card.card)) if plan is not None else ()


def _told(vm: GivenAwayVm, addresses: tuple[str, ...], until: datetime) -> dict[str, Any]:
    return {
        "vm_uuid": str(vm.vm_uuid),
        "addresses": list(addresses),
        "provider": vm.recipient,
        "node": vm.recipient_node,
        "epoch": vm.epoch,
        "since": vm.since,
        "until": until.isoformat(),
    }


async def serve_moved(moved: MovedVms, listen: str) -> None:
    """Answer at HOST:PORT until cancelled. Raises `ConfigError` where that cannot be listened at."""

    async def answer(request: web.Request) -> web.Response:
        who = request.match_info["who"]
        with suppress(ValueError):  # an address is no id
            who = str(UUID(who))
        try:
            told = await asyncio.to_thread(moved.answer, who)
        except OSError as error:
            log.warning("moved VMs not read", error=str(error))
            return web.json_response({"error": "not known at the moment"}, status=503)
        return web.json_response(told or {"error": "no such VM has moved"}, status=200 if told else 404)

    app = web.Application()
    app.router.add_get("/moved/{who}", answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        log.info("answering for VMs that have left", listen=listen)
        await asyncio.Event().wait()
    except OSError as error:
        raise ConfigError((Problem("network.moved_listen", "", f"cannot listen at {listen}: {error}"),)) from error
    finally:
        await runner.cleanup()
