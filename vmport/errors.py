"""What the client raises. `VmportError` is the root of all; each has a stable `code`."""

from __future__ import annotations

from shared.bus import BusDown, Undeliverable
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    NotUnderstood,
    PortEndedOtherwise,
    PortNotAllowed,
    PortWasCancelled,
    QuestionFailed,
)
from shared.config import ConfigError
from shared.errors import VmportError

__all__ = [
    "BusDown",
    "CancelNotPossible",
    "ConfigError",
    "NoAnswer",
    "NotUnderstood",
    "PortEndedOtherwise",
    "PortNotAllowed",
    "PortWasCancelled",
    "QuestionFailed",
    "Undeliverable",
    "VmportError",
]
