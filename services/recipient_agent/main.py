"""``vmport-recipient``: puts the recipient agent together and runs it. Decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.prefix_files import PrefixFiles
from services.recipient_agent.service import RecipientService
from services.recipient_agent.settings import RecipientSettings
from shared.runtime import Runtime, run_service
from shared.store import RelayPolicy, open_store

ABOUT = "Speaks for a provider towards VMs that come: quotes, reserves, checks the platform, relays to its nodes."


async def serve(runtime: Runtime[RecipientSettings]) -> None:
    """Run until cancelled."""
    settings = runtime.settings
    store = await runtime.stack.enter_async_context(open_store(settings.store, runtime.party))
    service = RecipientService(
        store,
        runtime.bus,
        settings.terms(),
        settings.recipient,
        RecipientMetrics(runtime.metrics.registry),
        relay_policy=RelayPolicy.from_settings(settings.store),
        prefixes=PrefixFiles(settings.prefixes, runtime.party.owner),
    )
    runtime.check("store", service.check_store)
    await service.run(runtime.running)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return run_service("vmport-recipient", RecipientSettings, serve, about=ABOUT, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
