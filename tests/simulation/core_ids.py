"""The port of the core tier. Pure."""

from __future__ import annotations

from tests.support.broker_samples import PORT, VM

EPOCH = 2
"""What the switchover commits."""

__all__ = ["EPOCH", "PORT", "VM"]
