"""The state: saved, read back, changed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.broker.saga import SagaState
from services.broker.saga.state import Failure
from shared.messages.base import MAX_TEXT
from shared.messages.service_change import PortPhase
from tests.support.broker_samples import LONG, NOW, Conversation, request


def test_state_survives_json() -> None:
    """A state with everything in it is the same after being saved."""
    state = Conversation.begin(request()).completed().state
    assert SagaState.model_validate_json(state.model_dump_json()) == state


def test_change_keeps_the_rest() -> None:
    """Only the named fields change, and the old state stays as it was."""
    before = Conversation.begin(request()).completed().state
    after = before.with_(retries=3, wake_at=NOW)
    assert (after.retries, after.wake_at) == (3, NOW)
    assert after.with_(retries=before.retries, wake_at=before.wake_at) == before


@pytest.mark.parametrize("changes", [{"outbound_trouble": LONG}, {"warnings": (LONG, "short")}, {"vm_name": LONG}])
def test_change_clips_text(changes: dict[str, object]) -> None:
    """Text of any length can be put into a state, and the state can be read back after being saved."""
    state = Conversation.begin(request()).state.with_(**changes)
    assert SagaState.model_validate_json(state.model_dump_json()) == state
    assert max(map(len, (state.outbound_trouble, state.vm_name, *state.warnings))) == MAX_TEXT


def test_failure_clips_text() -> None:
    """So can a failure's detail."""
    failure = Failure(outcome=PortPhase.FAILED, phase=PortPhase.SWITCHING, code="lane_lost", detail=LONG)
    longer = failure.with_(detail=f"{failure.detail}; {LONG}")
    assert longer == failure
    assert Failure.model_validate_json(longer.model_dump_json()) == longer


@pytest.mark.parametrize("changes", [{"no_such_field": 1}, {"epoch": 0}, {"phase": "nowhere"}])
def test_change_is_checked(changes: dict[str, object]) -> None:
    """A change that could not be read back is refused at once."""
    with pytest.raises(ValidationError):
        Conversation.begin(request()).state.with_(**changes)
