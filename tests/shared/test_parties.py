"""Names of parties: one rule for messages, RabbitMQ users and settings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from shared.parties import (
    BROKER,
    NAME_PATTERN,
    PARTY_PATTERN,
    BadPartyName,
    Party,
    PartyName,
    Role,
    donor,
    node,
    recipient,
    tenant,
)

names = st.from_regex(NAME_PATTERN, fullmatch=True)
parties = st.one_of(
    st.just(BROKER), names.map(tenant), names.map(donor), names.map(recipient), st.builds(node, names, names)
)


class Holder(BaseModel):
    name: PartyName


@given(parties)
def test_roundtrip(party: Party) -> None:
    """A party's name is read back as the same party."""
    assert Party.parse(str(party)) == party


@pytest.mark.parametrize(
    ("party", "name", "role"),
    [
        (BROKER, "broker", Role.BROKER),
        (tenant("acme"), "tenant.acme", Role.TENANT),
        (donor("alpha"), "donor.alpha", Role.DONOR),
        (recipient("alpha"), "recipient.alpha", Role.RECIPIENT),
        (node("alpha", "alpha-1"), "node.alpha.alpha-1", Role.NODE),
    ],
)
def test_names(party: Party, name: str, role: Role) -> None:
    """The names are those of the documents."""
    assert str(party) == name
    assert party.role is role


@pytest.mark.parametrize(
    "name",
    [
        "",
        "broker.x",
        "tenant",
        "tenant.",
        "tenant.A",
        "tenant.a.b",
        "tenant.-a",
        "tenant.a-",
        "node.alpha",
        "node.a.b.c",
        "root",
        "donor.a\n",
        "donor.*",
        "donor." + "a" * 41,
    ],
)
def test_bad_names_are_rejected(name: str) -> None:
    """What could escape a queue name or a permission pattern is no party; the error shows the rule."""
    with pytest.raises(BadPartyName, match=r"expected broker, tenant\.NAME"):
        Party.parse(name)
    with pytest.raises(ValidationError):
        Holder(name=name)
    assert not re.fullmatch(PARTY_PATTERN, name)


@given(st.one_of(st.from_regex(PARTY_PATTERN, fullmatch=True), st.text(max_size=20)))
def test_printed_pattern_is_the_rule(name: str) -> None:
    """The pattern in the JSON Schema accepts exactly what is read as a party."""
    try:
        accepted = str(Party.parse(name)) == name
    except BadPartyName:
        accepted = False

    assert accepted is bool(re.fullmatch(PARTY_PATTERN, name))
