"""The value of a secret, which shows itself nowhere, and what a secret of a port is called. Pure.

A value is in this process's memory and nowhere else: it is in no log, message, journal or command line. Whoever needs
the bytes says `reveal`, and passes them on at once.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final, NoReturn
from uuid import UUID

from shared.domain import SecretUsage, SecretUse

MAX_SECRET_BYTES: Final = 64 * 1024


class SecretValue:
    """Bytes that are shown to nobody by accident: not by `repr`, in a format string, by pickling or as JSON."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        """Raises ValueError for nothing, and for more than MAX_SECRET_BYTES."""
        if not 0 < len(data) <= MAX_SECRET_BYTES:
            raise ValueError(f"a secret of {len(data)} bytes; 1 to {MAX_SECRET_BYTES} are possible")
        self._data = bytes(data)

    def reveal(self) -> bytes:
        """The value."""
        return self._data

    def __repr__(self) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretValue) and hmac.compare_digest(self._data, other._data)

    __hash__ = None  # type: ignore[assignment]  # a digest of it would be a hint

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class SecretSpec:
    """A secret that a port makes at the recipient."""

    uuid: UUID
    usage: SecretUsage
    usage_id: str
    """Unique among all secrets of the usage; it names the port, so that it is known whose it is."""
    description: str = ""


def made_by(port_id: UUID) -> str:
    """How the usage id begins of each secret that a port has made."""
    return f"vmport {port_id} "


def spec_for(use: SecretUse, port_id: UUID, vm_name: str) -> SecretSpec:
    """The secret that the recipient's definition names. Raises ValueError where it names none by its UUID."""
    return SecretSpec(
        uuid=UUID(use.uuid),
        usage=use.usage,
        usage_id=f"{made_by(port_id)}{use.device}",
        description=f"Key of {use.device} of VM {vm_name}, which came with port {port_id}",
    )
