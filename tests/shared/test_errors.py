"""The root of vmport's errors."""

from __future__ import annotations

from shared.errors import VmportError


class Missing(VmportError):
    """It is not there."""

    code = "missing"


def test_docstring_is_the_default_sentence() -> None:
    """An error without facts says what its class says; one with facts says those."""
    assert str(Missing()) == "It is not there."
    assert str(Missing("no disk vda")) == "no disk vda"
    assert (Missing.code, VmportError.code) == ("missing", "internal")
