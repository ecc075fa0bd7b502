"""``vmport-donor``: puts the donor agent together and runs it. Decides nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy import PolicyError
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.service import DonorService
from services.donor_agent.settings import DonorSettings
from shared.config import ConfigError, Problem
from shared.config_files import Finding
from shared.runtime import Action, Runtime, run_service
from shared.store import OutboxRelay, RelayPolicy, Store, StoreUnusable, TimerRunner

ABOUT = "Speaks for a provider towards VMs that leave: approves by its policy, relays to its nodes, disconnects."


async def serve(runtime: Runtime[DonorSettings]) -> None:
    """Run until cancelled."""
    settings = runtime.settings
    policy = _open_policy(settings)
    metrics = DonorMetrics(runtime.metrics.registry)
    store = await runtime.stack.enter_async_context(Store(settings.store.url.get_secret_value(), runtime.party))
    service = DonorService(store, policy, settings.donor, metrics)
    await service.start()
    relay = OutboxRelay(
        store,
        runtime.bus,
        policy=RelayPolicy.from_settings(settings.store),
        on_depth=metrics.store.outbox_messages.set,
    )
    runtime.check("store", lambda: _store_answers(store))
    runtime.check("policy", policy.readiness)
    runtime.running()
    async with asyncio.TaskGroup() as group:
        group.create_task(relay.run(), name="outbox")
        group.create_task(TimerRunner(store, service.on_timer).run(), name="timers")
        group.create_task(policy.watch(settings.donor.policy_check_s, service.policy_changed), name="policy")
        group.create_task(service.run_reports(), name="reports")
        group.create_task(runtime.bus.consume(service.handle), name="inbox")


async def _store_answers(store: Store) -> str | None:
    try:
        await store.check()
    except StoreUnusable as error:
        return str(error)
    return None


def _open_policy(settings: DonorSettings) -> PolicyFile:
    try:
        return PolicyFile.open(settings.donor.policy_file)
    except PolicyError as error:
        raise ConfigError((Problem("donor.policy_file", "", str(error)),)) from error


def check(settings: DonorSettings) -> list[Finding]:
    """What ``--check-config`` tries besides files: the policy."""
    try:
        PolicyFile.open(settings.donor.policy_file)
    except PolicyError as error:
        return [Finding(("donor", "policy_file"), str(error))]
    return []


def _check_policy(settings: DonorSettings | None) -> str:
    assert settings is not None, "the action asks for settings"  # noqa: S101  # guaranteed by needs_settings
    policy = _open_policy(settings).policy
    vms = sum(len(account.vms) for account in policy.accounts.values())
    return f"the policy is valid: {len(policy.accounts)} accounts, {vms} entries for VMs"


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    check_policy: Action[DonorSettings] = Action(
        "--check-policy", "validate the policy file and exit", _check_policy, needs_settings=True
    )
    return run_service(
        "vmport-donor", DonorSettings, serve, about=ABOUT, actions=[check_policy], check=check, argv=argv
    )


if __name__ == "__main__":
    sys.exit(main())
