"""The policy file's text and what it says about owners."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.donor_agent.policy import Policy, PolicyError, parse_policy

VM = UUID("0d5c3e6a-8a53-4a55-9a0e-5b6f2f3d7c11")
SAMPLE = Path(__file__).parents[3] / "deploy" / "config" / "donor-policy.toml"

TWO_ACCOUNTS = f"""
[accounts.acme]
contract_start = 2024-01-01
vms = [{{ name = "web-*" }}, {{ uuid = "{VM}" }}]
[accounts.globex]
contract_start = 2024-01-01
vms = [{{ name = "web-9" }}]
"""


def test_committed_sample_is_valid() -> None:
    """The sample that an operator copies is a policy."""
    policy = parse_policy(SAMPLE.read_text(encoding="utf-8"))

    assert set(policy.accounts) == {"acme", "globex"}
    assert policy.owners(VM, "anything") == ("acme",)
    assert policy.owners(uuid4(), "shop-7") == ("globex",)


TWO_OWNERS = "\n".join(
    f'[accounts.{name}]\ncontract_start = 2024-01-01\nvms = [{{ uuid = "{VM}" }}]' for name in ("a", "b")
)


@pytest.mark.parametrize(
    ("uuid", "name", "owners"),
    [
        (uuid4(), "web-1", ("acme",)),
        (uuid4(), "WEB-1", ()),
        (uuid4(), "db", ()),
        (uuid4(), "web-9", ("acme", "globex")),
        (VM, "web-9", ("acme",)),
    ],
)
def test_owner_is_found_by_uuid_then_by_name(uuid: UUID, name: str, owners: tuple[str, ...]) -> None:
    """A uuid wins over every pattern; patterns are case-sensitive; two matching accounts are both named."""
    assert parse_policy(TWO_ACCOUNTS).owners(uuid, name) == owners


def test_rules_by_uuid_win_over_rules_by_name() -> None:
    """What binds a VM named by uuid is said there alone."""
    policy = parse_policy(TWO_ACCOUNTS)

    assert [rule.uuid for rule in policy.rules_for("acme", VM, "web-1")] == [VM]
    assert policy.rules_for("nobody", VM, "web-1") == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[accounts", "not TOML"),
        ("minimum_stay_days = -1", "minimum_stay_days"),
        ("surprise = 1", "surprise"),
        ("[accounts.acme]", "accounts.acme.contract_start"),
        ("[accounts.UPPER]\ncontract_start = 2024-01-01", "accounts.UPPER"),
        ("[accounts.acme]\ncontract_start = 2024-01-01\nvms = [{}]", "exactly one of uuid and name"),
        (
            TWO_OWNERS,
            "owned by both a and b",
        ),
        ('[accounts.a]\ncontract_start = 2024-01-01\ndues = [{ invoice = "1" }]', "dues.0.amount"),
    ],
)
def test_broken_policy_says_what_and_where(text: str, says: str) -> None:
    """An operator's mistake is named by key."""
    with pytest.raises(PolicyError, match=says):
        parse_policy(text)


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    """No text makes the reader fail otherwise."""
    try:
        policy = parse_policy(text)
    except PolicyError:
        return
    assert isinstance(policy, Policy)


def test_partners() -> None:
    """An empty list allows anybody, a list only those on it."""
    assert Policy().allows_recipient("beta")
    assert Policy(partners=("beta",)).allows_recipient("beta")
    assert not Policy(partners=("gamma",)).allows_recipient("beta")
