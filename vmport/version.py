"""The installed release."""

from __future__ import annotations

from importlib import metadata

__version__ = metadata.version("vmport")
