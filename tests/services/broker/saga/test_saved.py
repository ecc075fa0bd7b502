"""Values of the saved state."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.broker.saga.saved import Saved
from shared.messages.base import MAX_TEXT, Text


class Note(Saved):
    """Some value."""

    text: Text = ""


def test_changes_are_checked_and_text_is_clipped() -> None:
    """What is saved can be read."""
    assert len(Note().with_(text="x" * (MAX_TEXT + 1)).text) == MAX_TEXT
    with pytest.raises(ValidationError):
        Note().with_(other=1)
