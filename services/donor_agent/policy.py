"""The provider's policy as a value: accounts, the VMs that they own, and what binds them. Pure.

The operator writes it as TOML (sample: ``deploy/config/donor-policy.toml``); `parse_policy` reads the text. Files
and re-reading are `policy_file`'s; which rule refuses what is `approval`'s.
"""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.config_phrases import in_words
from shared.errors import VmportError
from shared.messages.base import Code, Price
from shared.messages.rule_facts import Charge, Service
from shared.parties import Name

Reason = Annotated[str, Field(min_length=1, max_length=400)]
Days = Annotated[int, Field(ge=0, le=36_500)]
Amount = Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=2)]


class PolicyError(VmportError):
    """The provider's policy cannot be read."""

    code = "policy_invalid"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Invoice(_Part):
    """An open invoice; remove it from the file when it is paid."""

    invoice: Reason = Field(description="The invoice's number, shown to the tenant.")
    amount: Amount = Field(description="What is open of it.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(description="ISO 4217 code.")
    due: date = Field(description="The day by which it is to be paid.")


class OwnedVmRule(_Part):
    """Which VMs an account owns, and what binds these VMs beyond what binds the account."""

    uuid: UUID | None = Field(default=None, description="Exactly this VM. Wins over every name pattern.")
    name: Reason | None = Field(default=None, description="VMs of this name; * and ? match as in a shell.")
    contract_start: date | None = Field(default=None, description="Where it differs from the account's.")
    price_per_month: Price | None = Field(
        default=None, description="What the tenant pays for each such VM, in the currency of [leaving]."
    )
    legal_hold: Reason | None = Field(default=None, description="Why the law keeps this VM here.")
    owner_change: Reason | None = Field(default=None, description="The change of owner that is under way.")

    @model_validator(mode="after")
    def _exactly_one_key(self) -> Self:
        if (self.uuid is None) == (self.name is None):
            raise ValueError("a VM is named by exactly one of uuid and name")
        return self


class Account(_Part):
    """A tenant of this provider. The table's name is the tenant's name on the bus."""

    contract_start: date = Field(description="The first day of the contract; the minimum stay counts from it.")
    contract_end: date | None = Field(default=None, description="The contract's last day; none is open-ended.")
    early_exit: bool = Field(default=True, description="Whether the tenant may leave before contract_end.")
    minimum_stay_days: Days | None = Field(default=None, description="Where it differs from the provider's.")
    legal_hold: Reason | None = Field(default=None, description="Why the law keeps all VMs of this account here.")
    owner_change: Reason | None = Field(default=None, description="The change of owner that is under way.")
    identity_changed_on: date | None = Field(
        default=None, description="When the account's proof of identity was last replaced."
    )
    service: Service = Field(default=Service.STANDARD, description="What kind of service the contract is about.")
    dues: tuple[Invoice, ...] = Field(default=(), description="Open invoices.")
    vms: tuple[OwnedVmRule, ...] = Field(default=(), description="The VMs that the account owns.")


class Policy(_Part):
    """What a provider demands of those who leave."""

    minimum_stay_days: Days = Field(default=90, description="Days from contract_start in which nobody leaves.")
    dues_block: Literal["overdue", "open"] = Field(
        default="overdue", description="Which open invoices keep a VM here: only overdue ones, or every open one."
    )
    notice_days: Days = Field(default=0, description="Days between a request and the start of its window.")
    identity_bar_days: Days = Field(
        default=0, description="Days after identity_changed_on in which no VM of the account leaves."
    )
    demands: tuple[Code, ...] = Field(
        default=(), max_length=16, description="Fields that a tenant must tell before a VM leaves."
    )
    charges: tuple[Charge, ...] = Field(
        default=(), max_length=16, description="What a port costs here, and what of it is the direct cost."
    )
    max_concurrent_ports: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=4, description="Ports under way at once from this provider."
    )
    partners: tuple[Name, ...] = Field(default=(), description="Providers to which VMs may leave; empty means any.")
    accounts: dict[Name, Account] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_owner_per_uuid(self) -> Self:
        seen: dict[UUID, str] = {}
        for tenant, account in self.accounts.items():
            for rule in account.vms:
                if rule.uuid is not None and seen.setdefault(rule.uuid, tenant) != tenant:
                    raise ValueError(f"VM {rule.uuid} is owned by both {seen[rule.uuid]} and {tenant}")
        return self

    def owners(self, uuid: UUID, name: str) -> tuple[str, ...]:
        """Tenants that own this VM: one, none, or several if name patterns of more than one account match."""
        by_uuid = [tenant for tenant, account in self.accounts.items() if any(r.uuid == uuid for r in account.vms)]
        return tuple(by_uuid) or tuple(t for t in sorted(self.accounts) if self._by_name(t, name))

    def rules_for(self, tenant: str, uuid: UUID, name: str) -> tuple[OwnedVmRule, ...]:
        """The account's entries that speak of this VM: those by uuid, else those by name."""
        account = self.accounts.get(tenant)
        if account is None:
            return ()
        return tuple(r for r in account.vms if r.uuid == uuid) or self._by_name(tenant, name)

    def allows_recipient(self, provider: str) -> bool:
        """Whether VMs may leave to this provider."""
        return not self.partners or provider in self.partners

    def _by_name(self, tenant: str, name: str) -> tuple[OwnedVmRule, ...]:
        return tuple(r for r in self.accounts[tenant].vms if r.name is not None and fnmatchcase(name, r.name))


_PHRASES = {"extra_forbidden": "is no key of a policy"}


def parse_policy(text: str) -> Policy:
    """Read a policy from TOML; raises `PolicyError` that says where and what is wrong."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"the policy is not TOML: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'policy'}: {in_words(item, others=_PHRASES)}"
            for item in error.errors(include_url=False, include_input=False)[:5]
        ]
        raise PolicyError("the policy is not valid: " + "; ".join(problems)) from error
