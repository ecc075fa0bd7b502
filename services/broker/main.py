"""The program ``vmport-broker``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta

from services.broker import settle
from services.broker.dns import BadDnsKey
from services.broker.dns_keeper import DnsKeeper
from services.broker.metrics import BrokerMetrics
from services.broker.migrate import SchemaUnknown, migrate
from services.broker.rules import check_rules
from services.broker.rules.book import RuleBook
from services.broker.saga.diagram import markdown
from services.broker.service import BrokerService
from services.broker.settings import BrokerSettings
from shared.config import ConfigError, Problem
from shared.parties import BROKER
from shared.rabbit.lanes import RabbitLaneAdmin
from shared.rules.regime import RegimeError
from shared.runtime import Action, Runtime, run_service
from shared.store import Store, open_store

ABOUT = "vmport's broker: verifies, fixes and records ports, and says who serves a VM."
SEE_ALSO = (
    "To settle a port that waits for an operator: vmport-broker settle --help. "
    "To check a file of rules: vmport-broker check-rules --help."
)


async def serve(runtime: Runtime[BrokerSettings]) -> None:
    """Open the ledger, bring its schema up to date, work."""
    settings = runtime.settings
    store = await runtime.stack.enter_async_context(open_store(settings.store, BROKER))
    await _up_to_date(store)
    lane_admin = RabbitLaneAdmin(settings.bus, runtime.metrics.bus)
    runtime.stack.push_async_callback(lane_admin.close)
    metrics = BrokerMetrics(runtime.metrics.registry)
    names, book = _names(settings, store, metrics), _book(settings)
    service = BrokerService(settings, store, runtime.bus, lane_admin, metrics, names=names, book=book)
    runtime.check("store", service.check_store)
    await service.run(runtime.running)


def _names(settings: BrokerSettings, store: Store, metrics: BrokerMetrics) -> DnsKeeper | None:
    dns = settings.dns
    if not dns.is_on:
        return None
    try:
        server = dns.name_server()
    except BadDnsKey as error:
        raise ConfigError((Problem("dns.key_file", "", str(error)),)) from error
    return DnsKeeper(store, server, metrics, forget_after=timedelta(days=dns.forget_after_days))


def _book(settings: BrokerSettings) -> RuleBook:
    try:
        return settings.rules.book()
    except RegimeError as error:
        raise ConfigError((Problem(error.file, error.key, error.reason),)) from error


async def _up_to_date(store: Store) -> str:
    try:
        return await migrate(store)
    except SchemaUnknown as error:
        # A restart would not help; systemd is told so by the exit code.
        raise ConfigError((Problem("store.url", "", str(error)),)) from error


def _migrate(settings: BrokerSettings | None) -> str:
    if settings is None:
        raise ValueError("--migrate needs settings")
    ledger = settings.store

    async def run() -> str:
        async with open_store(ledger, BROKER) as store:
            return f"{store.shown_url} is at revision {await _up_to_date(store)}"

    return asyncio.run(run())


def _print_saga(_settings: BrokerSettings | None) -> str:
    return markdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the broker, or settle a port; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["settle"]:
        return settle.main(arguments[1:])
    if arguments[:1] == ["check-rules"]:
        return check_rules.main(arguments[1:])
    actions: tuple[Action[BrokerSettings], ...] = (
        Action("--print-saga", "print the saga's state diagram and deadlines as Markdown and exit", _print_saga),
        Action("--migrate", "bring the ledger's schema up to date and exit", _migrate, needs_settings=True),
    )
    return run_service(
        "vmport-broker", BrokerSettings, serve, about=ABOUT, see_also=SEE_ALSO, actions=actions, argv=arguments
    )
