"""The installed release."""

from __future__ import annotations

from importlib import metadata

import vmport
from vmport import version


def test_version() -> None:
    """As the distribution says."""
    assert vmport.__version__ == version.__version__ == metadata.version("vmport")
