"""What the broker tells a donor of its unlawful demands, and what a tenant asks about rules. Pure models."""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from shared.messages.base import Code, PortMessage, Refusal, Text, Value
from shared.messages.queries import Answer, Question
from shared.messages.rule_facts import MAX_RULES, AppliedRules, RegimeName
from shared.parties import Name, Role


class DemandRefused(PortMessage):
    """What the donor demands, or how it refuses, is against a rule that binds it. It is void; the port goes on."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.DONOR})

    refusals: tuple[Refusal, ...] = Field(description="Each with the clause that it is against.")
    void: tuple[Annotated[Text, Field(max_length=128)], ...] = Field(
        default=(), max_length=64, description="Codes of refusals that the donor must not use for this port."
    )


class ListRules(Question):
    """Which rules does the broker know?"""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    regime: RegimeName | None = Field(default=None, description="Only this one's; null: all.")
    code: Code | None = Field(default=None, description="Only rules of this name, or that refuse with this code.")


class ShownRule(Value):
    """One rule of a regime."""

    regime: RegimeName
    rule: Code
    clause: Text
    source: Text
    region: Text = Field(description="Where it holds, and of which party that is asked.")
    valid_from: date | None = None
    valid_to: date | None = Field(default=None, description="The first day on which it no longer holds.")
    binds: Code
    kind: Code = Field(description="The predicate.")
    limit: Text = Field(description="The predicate's values, in words.")
    code: Code
    says: Text
    enforced: bool = Field(description="False: the broker only records the duty.")
    note: Text = ""


class RulesListed(Answer):
    """Rules, by regime and clause."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    rules: Annotated[tuple[ShownRule, ...], Field(max_length=4 * MAX_RULES)]


class CheckRules(Question):
    """Which rules would bind a port of this VM now, and what do they say? Its provider is asked; nothing moves."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    vm_uuid: UUID
    recipient: Name | None = Field(default=None, description="Where it would go; null: open.")


class RulesChecked(Answer):
    """Every rule that would be applied, with what is known now."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    vm_uuid: UUID
    donor: Name
    recipient: Name | None = None
    regimes: tuple[RegimeName, ...]
    rules: AppliedRules
