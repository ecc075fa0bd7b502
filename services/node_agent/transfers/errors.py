"""The errors that end a transfer on this side of a port."""

from __future__ import annotations

from shared.errors import VmportError


class ReadOnlyDiskError(VmportError):
    """A read-only disk or an inserted medium cannot be sent, or the recipient cannot take it."""

    code = "read_only_disk"


class TransferError(VmportError):
    """This side of a port failed. `guest_running`: whether the guest runs on this host afterwards."""

    def __init__(self, code: str, detail: str, *, guest_running: bool) -> None:
        self.code = code
        self.detail = detail
        self.guest_running = guest_running
        super().__init__(f"{code}: {detail}")
