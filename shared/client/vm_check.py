"""``vmport vm check``: what a dry run said about each provider, in one value, and its exit code. Pure."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from shared.client.errors import PortEndedOtherwise, PortNotAllowed
from shared.client.exits import exit_code_of_refusals
from shared.exit_codes import ExitCode
from shared.messages import Refusal
from shared.messages.base import Value
from shared.messages.queries import RegisteredVm
from shared.messages.service_change import PortPlanned, Quote
from shared.parties import BROKER

_SILENT = frozenset({"donor_silent", "no_answer", "node_unreachable"})
"""Reasons that may be others when the one who did not answer is back."""


class ProviderVerdict(Value):
    """One provider that was asked: its offer, or why it makes none."""

    provider: str
    can_take: bool
    quote: Quote | None = None
    refusals: tuple[Refusal, ...] = ()


class VmCheck(Value):
    """What a port of this VM would meet, now. Nothing has moved."""

    vm_uuid: UUID
    vm_name: str
    donor: str
    possible: bool = Field(description="At least one provider that was asked can take the VM.")
    refused_by: str = Field(default="", description="Who refused before providers were asked; empty if nobody did.")
    refusals: tuple[Refusal, ...] = Field(default=(), description="That party's reasons.")
    providers: tuple[ProviderVerdict, ...] = Field(default=(), description="Who can take it, best offer first.")

    @property
    def exit_code(self) -> ExitCode:
        """0: possible. 8: nothing but silence speaks against it. Else as for the refusal of a port."""
        if self.possible:
            return ExitCode.OK
        reasons = (*self.refusals, *(refusal for verdict in self.providers for refusal in verdict.refusals))
        if reasons and all(refusal.code in _SILENT for refusal in reasons):
            return ExitCode.TIMED_OUT
        return exit_code_of_refusals(reasons)


def check_of(vm: RegisteredVm, plan: PortPlanned) -> VmCheck:
    """What the providers said."""
    offers = (ProviderVerdict(provider=quote.provider, can_take=True, quote=quote) for quote in plan.quotes)
    declined = (
        ProviderVerdict(provider=name, can_take=False, refusals=refusals)
        for name, refusals in sorted(plan.declined.items())
    )
    return VmCheck(
        vm_uuid=vm.uuid,
        vm_name=vm.name,
        donor=vm.provider,
        possible=bool(plan.quotes),
        providers=(*offers, *declined),
    )


def stopped(vm: RegisteredVm, error: PortNotAllowed | PortEndedOtherwise) -> VmCheck:
    """The dry run ended before any provider was asked: a party refused it, or it failed."""
    if isinstance(error, PortNotAllowed):
        by, refusals = error.refused_by, error.refusals
    else:
        reason = Refusal(code=error.code, rule="The pre-flight must reach its end.", evidence=str(error))
        by, refusals = str(BROKER), (reason,)
    return VmCheck(
        vm_uuid=vm.uuid, vm_name=vm.name, donor=vm.provider, possible=False, refused_by=by, refusals=refusals
    )


def exit_code_of_shown(refusals: tuple[Refusal, ...]) -> ExitCode:
    """The exit code of ``vm show`` where the VM's details are not known, by the reasons that were given."""
    if any(refusal.code in _SILENT for refusal in refusals):
        return ExitCode.TIMED_OUT
    return exit_code_of_refusals(refusals)
