"""What reading a definition found: what blocks a port, what the recipient makes again, what is not kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What a finding means for a port."""

    BLOCKS = "blocks"
    """The VM is refused by name."""
    MADE_ANEW = "made_anew"
    """Bound to the donor's host; the recipient chooses its own."""
    NOT_KEPT = "not_kept"
    """Bound to the donor's host, and lost."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of a definition that does not go with the VM as it is.

    `code` is stable and for machines, `part` the device's own name (disk vda, network card 52:54:…) or the path, and
    `detail` the sentence for people, with the true reason.
    """

    code: str
    kind: FindingKind
    part: str
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.part}: {self.detail}"
