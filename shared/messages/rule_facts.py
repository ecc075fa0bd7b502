"""What rules are judged by, and how a rule's judgement is told. Pure models; no conversation of its own.

A donor states its facts with each answer: what binds the VM by its own records, what it demands, and what it charges.
The broker judges them by the regimes that bind the port.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from shared.messages.base import Code, Price, Text, Timestamp, Value

MAX_STATED = 64
"""Of each list in a donor's facts."""
MAX_RULES = 256
RegimeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Days = Annotated[int, Field(ge=0, le=36_500)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Sha256Text = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Told = Annotated[dict[Code, Annotated[Text, Field(max_length=200)]], Field(max_length=16)]
"""What a tenant tells a donor that demands it, by the field's name."""


class Ground(StrEnum):
    """A reason for which a donor's records may keep a VM. Its value is the code of the refusal."""

    DUES = "dues_open"
    MINIMUM_STAY = "minimum_stay"
    CONTRACT_RUNNING = "contract_running"
    CONTRACT_ENDED = "contract_ended"
    LEGAL_HOLD = "legal_hold"
    OWNER_CHANGE = "owner_change_under_way"
    IDENTITY_CHANGED = "identity_changed"
    PARTNER = "partner_not_allowed"
    NOTICE = "notice_too_short"
    FIELD_MISSING = "field_missing"


class ChargeKind(StrEnum):
    """What a donor asks money for when a VM leaves."""

    SWITCHING = "switching"
    EGRESS = "egress"
    PORT_FEE = "port_fee"
    PARALLEL_USE = "parallel_use"
    EARLY_TERMINATION = "early_termination"


class Charge(Value):
    """One charge of a donor for a port."""

    kind: ChargeKind
    amount: Price
    currency: Currency
    direct_cost: Price | None = Field(
        default=None, description="What the port costs the provider directly, in the same currency; null: not stated."
    )


class StatedDue(Value):
    """An invoice that is not paid."""

    invoice: Text
    amount: Price
    currency: Currency
    due: date = Field(description="The day by which it is to be paid.")


class Service(StrEnum):
    """What kind of service the VM is, as its contract says; some rules do not hold for all of them."""

    STANDARD = "standard"
    CUSTOM_BUILT = "custom_built"
    TEST = "test"


class DonorFacts(Value):
    """What a donor's records say of a VM and its owner, what the donor demands, and what it charges."""

    service: Service = Service.STANDARD
    contract_start: date | None = Field(default=None, description="The first day of the stay.")
    contract_end: date | None = Field(default=None, description="The contract's last day; null: it has none.")
    early_exit: bool = Field(default=True, description="Whether the contract lets the tenant leave before its end.")
    minimum_stay_days: Days = Field(default=0, description="What the donor demands from contract_start on.")
    notice_days: Days = Field(default=0, description="What the donor demands between the request and the window.")
    dues: tuple[StatedDue, ...] = Field(default=(), max_length=MAX_STATED)
    legal_holds: tuple[Text, ...] = Field(default=(), max_length=MAX_STATED)
    owner_changes: tuple[Text, ...] = Field(default=(), max_length=MAX_STATED)
    identity_changed_on: date | None = Field(
        default=None, description="When the owner's proof of identity was last replaced."
    )
    demands: tuple[Code, ...] = Field(
        default=(), max_length=MAX_STATED, description="Fields that the tenant must tell before the VM may leave."
    )
    charges: tuple[Charge, ...] = Field(default=(), max_length=MAX_STATED)


class RuleOutcome(StrEnum):
    """What became of one rule."""

    MET = "met"
    REFUSED = "refused"
    UNLAWFUL = "unlawful"
    DUE = "due"
    OVERDUE = "overdue"
    UNKNOWN = "unknown"
    RECORDED = "recorded"


class AppliedRule(Value):
    """One rule as it was applied to a port."""

    regime: RegimeName
    rule: Code
    clause: Text = Field(description="The clause; where several regimes bind, the strictest first, then the others.")
    source: Text
    binds: Code = Field(description="donor, recipient, tenant or broker.")
    outcome: RuleOutcome = Field(
        description="met; refused: the tenant's port; unlawful: what the provider demanded; due: a duty with a "
        "deadline; overdue; unknown: a fact is missing; recorded: the broker only records it."
    )
    code: Code
    says: Text = Field(description="The rule in words.")
    evidence: Text
    due_at: Timestamp | None = Field(default=None, description="When the duty must be done, or until when it lasts.")
    facts_sha256: Sha256Text = Field(description="Of the facts that were judged, as canonical JSON.")


AppliedRules = Annotated[tuple[AppliedRule, ...], Field(max_length=MAX_RULES)]
