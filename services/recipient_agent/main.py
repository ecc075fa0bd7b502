"""``vmport-recipient``: puts the recipient agent together and runs it. Decides nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.service import RecipientService
from services.recipient_agent.settings import RecipientSettings
from shared.runtime import Runtime, run_service
from shared.store import OutboxRelay, RelayPolicy, Store, StoreUnusable, TimerRunner

ABOUT = "Speaks for a provider towards VMs that come: quotes, reserves, checks the platform, relays to its nodes."


async def serve(runtime: Runtime[RecipientSettings]) -> None:
    """Run until cancelled."""
    settings = runtime.settings
    metrics = RecipientMetrics(runtime.metrics.registry)
    store = await runtime.stack.enter_async_context(Store(settings.store.url.get_secret_value(), runtime.party))
    service = RecipientService(store, settings.terms(), settings.recipient, metrics)
    await service.start()
    relay = OutboxRelay(
        store,
        runtime.bus,
        policy=RelayPolicy.from_settings(settings.store),
        on_depth=metrics.store.outbox_messages.set,
    )
    runtime.check("store", lambda: _store_answers(store))
    runtime.running()
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run(), name="outbox")
        group.create_task(TimerRunner(store, service.on_timer).run(), name="timers")
        group.create_task(service.run_reports(), name="reports")
        group.create_task(runtime.bus.consume(service.handle), name="inbox")


async def _store_answers(store: Store) -> str | None:
    try:
        await store.check()
    except StoreUnusable as error:
        return str(error)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return run_service("vmport-recipient", RecipientSettings, serve, about=ABOUT, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
