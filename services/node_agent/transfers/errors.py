"""The errors that end a transfer on this side of a port."""

from __future__ import annotations

from shared.errors import VmportError


class ReadOnlyDiskError(VmportError):
    """A read-only disk or an inserted medium cannot be sent, or the recipient cannot take it."""

    code = "read_only_disk"


class TransferError(VmportError):
    """This side of a port failed. `guest_running`: whether the guest runs on this host afterwards; `may_have_run`: it
    does not, and may have run here before."""

    def __init__(self, code: str, detail: str, *, guest_running: bool, may_have_run: bool = False) -> None:
        self.code = code
        self.detail = detail
        self.guest_running = guest_running
        self.may_have_run = may_have_run
        super().__init__(f"{code}: {detail}")
