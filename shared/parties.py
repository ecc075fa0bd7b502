"""Parties on the bus, their roles and their names. Pure; owns the naming rule and nothing else.

A party's name is also its RabbitMQ user and its CloudEvents source: ``broker``, ``donor.alpha``, ``recipient.alpha``,
``node.alpha.alpha-1``, ``tenant.acme``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from shared.errors import VmportError

NAME_PATTERN = r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?"
"""A provider's, node's or tenant's own name: safe in queue names, host names and permission patterns."""

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME_PATTERN}$")]


class Role(StrEnum):
    """What a party is in a port."""

    TENANT = "tenant"
    BROKER = "broker"
    DONOR = "donor"
    RECIPIENT = "recipient"
    NODE = "node"


class BadPartyName(VmportError):
    """A party name does not follow the rule."""

    code = "bad_party_name"

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name!r} is no party: expected broker, tenant.NAME, donor.PROVIDER, recipient.PROVIDER or "
            f"node.PROVIDER.NODE, each name of a-z, 0-9 and '-'"
        )


_PARTY = re.compile(
    rf"^(?:(?P<broker>broker)|(?P<role>tenant|donor|recipient)\.(?P<owner>{NAME_PATTERN})"
    rf"|node\.(?P<provider>{NAME_PATTERN})\.(?P<node>{NAME_PATTERN}))$"
)


@dataclass(frozen=True, slots=True)
class Party:
    """One sender or receiver on the bus. ``owner`` is the provider or tenant; ``node`` is empty but for a node."""

    role: Role
    owner: str = ""
    node: str = ""

    @classmethod
    def parse(cls, name: str) -> Party:
        """Read a party from its name; raises `BadPartyName`."""
        match = _PARTY.fullmatch(name)
        if match is None:
            raise BadPartyName(name)
        if match["broker"]:
            return BROKER
        if match["node"]:
            return cls(Role.NODE, match["provider"], match["node"])
        return cls(Role(match["role"]), match["owner"])

    def __str__(self) -> str:
        match self.role:
            case Role.BROKER:
                return "broker"
            case Role.NODE:
                return f"node.{self.owner}.{self.node}"
            case _:
                return f"{self.role}.{self.owner}"


BROKER = Party(Role.BROKER)


def donor(provider: str) -> Party:
    """The donor agent of a provider."""
    return Party(Role.DONOR, provider)


def recipient(provider: str) -> Party:
    """The recipient agent of a provider."""
    return Party(Role.RECIPIENT, provider)


def node(provider: str, name: str) -> Party:
    """One node agent of a provider."""
    return Party(Role.NODE, provider, name)


def tenant(name: str) -> Party:
    """A tenant."""
    return Party(Role.TENANT, name)


def _checked(name: str) -> str:
    try:
        Party.parse(name)
    except BadPartyName as error:
        raise ValueError(str(error)) from error
    return name


PARTY_PATTERN = rf"^(?:broker|(?:tenant|donor|recipient)\.{NAME_PATTERN}|node\.{NAME_PATTERN}\.{NAME_PATTERN})$"
"""The same rule for JSON Schema libraries, many of which know no named groups."""

PartyName = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": PARTY_PATTERN, "description": "A party: broker, tenant.acme …"}),
]
"""A party's name inside a message."""
