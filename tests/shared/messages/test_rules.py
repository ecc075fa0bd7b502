"""The broker's word to a donor, and questions about rules."""

from __future__ import annotations

from uuid import UUID

import pytest
from pydantic import ValidationError

from shared.messages.rules import CheckRules, DemandRefused, ListRules
from shared.parties import Role


def test_only_the_broker_refuses_a_demand() -> None:
    """And only donors are told so."""
    assert list(DemandRefused.SENDERS) == [Role.BROKER]
    assert list(DemandRefused.RECEIVERS) == [Role.DONOR]


@pytest.mark.parametrize("fields", [{"regime": "EU"}, {"code": "Not A Code"}])
def test_bad_question(fields: dict[str, str]) -> None:
    """Names that no rule can have."""
    with pytest.raises(ValidationError):
        ListRules.model_validate(fields)


def test_a_check_is_about_one_vm() -> None:
    """Its recipient may be open."""
    assert CheckRules(vm_uuid=UUID(int=1)).recipient is None
