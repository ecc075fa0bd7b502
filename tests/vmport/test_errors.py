"""The public errors."""

from __future__ import annotations

import vmport


def test_all_have_one_root_and_a_code() -> None:
    """A program may catch one class and look at one word."""
    for name in vmport.errors.__all__:
        error = getattr(vmport.errors, name)
        assert issubclass(error, vmport.errors.VmportError)
