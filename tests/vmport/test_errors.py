"""The errors of the package for users."""

from __future__ import annotations

import vmport
from vmport import errors


def test_every_error_has_one_root() -> None:
    """A program catches all of vmport's errors by one name."""
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), vmport.VmportError)
        assert getattr(vmport, name) is getattr(errors, name)
