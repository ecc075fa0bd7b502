"""What vmport raises. All are `VmportError`; ``code`` is stable and machine-readable, the text is for people."""

from __future__ import annotations

from shared.bus import BusDown, Undeliverable
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    NotFixedInTime,
    NotUnderstood,
    PortEndedOtherwise,
    PortNotAllowed,
    QuestionFailed,
)
from shared.config import ConfigError
from shared.errors import VmportError

__all__ = [
    "BusDown",
    "CancelNotPossible",
    "ConfigError",
    "NoAnswer",
    "NotFixedInTime",
    "NotUnderstood",
    "PortEndedOtherwise",
    "PortNotAllowed",
    "QuestionFailed",
    "Undeliverable",
    "VmportError",
]
