"""What is told of a VM is bounded: our own words are made to fit, a stranger's are refused."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.messages.vm import MAX_LINE, MAX_LINES, Lines

LINES: TypeAdapter[tuple[str, ...]] = TypeAdapter(Lines)


def test_our_own_sentences_are_made_to_fit() -> None:
    """A VM with very many findings is told of with as many as fit, and with how many there are besides."""
    fitted = LINES.validate_python(("x" * (MAX_LINE + 1),) * (MAX_LINES + 5))

    assert len(fitted) == MAX_LINES
    assert fitted[0] == "x" * MAX_LINE
    assert fitted[-1] == "and 6 more"


def test_a_strangers_sentences_that_do_not_fit_are_refused() -> None:
    """A message with more than fits is not read."""
    many = ",".join(['"x"'] * (MAX_LINES + 1))

    with pytest.raises(ValidationError):
        LINES.validate_json(f"[{many}]")
    with pytest.raises(ValidationError):
        LINES.validate_json(f'["{"x" * (MAX_LINE + 1)}"]')
