"""``vmport-donor``: puts the donor agent together and runs it. Decides nothing."""

from __future__ import annotations

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
from shared.store import RelayPolicy, open_store

ABOUT = "Speaks for a provider towards VMs that leave: approves by its policy, relays to its nodes, disconnects."


async def serve(runtime: Runtime[DonorSettings]) -> None:
    """Run until cancelled."""
    settings = runtime.settings
    policy = _open_policy(settings)
    store = await runtime.stack.enter_async_context(open_store(settings.store, runtime.party))
    service = DonorService(
        store,
        runtime.bus,
        policy,
        settings.donor,
        DonorMetrics(runtime.metrics.registry),
        network=settings.network,
        leaving=settings.leaving,
        relay_policy=RelayPolicy.from_settings(settings.store),
    )
    runtime.check("store", service.check_store)
    runtime.check("policy", policy.readiness)
    await service.run(runtime.running)


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
