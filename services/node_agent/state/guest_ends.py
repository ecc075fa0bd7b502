"""Why an arriving guest ended, as libvirt told its hook: for an agent that was away, or that heard of no start.

libvirtd ends an incoming guest that it cannot run, and names itself as the reason. Where the guest has ended by itself
it says so, whether this agent lives or not, and, once it is back, also of what happened while it was away. So "no guest
here" with such a reason is no proof that it never ran. The hook (`hypervisor/qemu_hook.sh`) writes only into a file
that is there: the agent makes it before libvirt can run the guest.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

ENDED = ".ended"
"""Suffix of a VM's file; the hook knows it, too."""
_BY_ITSELF = frozenset({"shutdown", "crashed", "unknown"})
"""libvirt's reasons (virDomainShutoffReason) for what it has found ended. "unknown" is never "no"."""


class GuestEnds:
    """The directory of these files; it is the hook's, with the files about VMs that were given away."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def watch(self, vm_uuid: UUID) -> None:
        """From now on the hook writes down why this guest ends; what it wrote before is gone. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path(vm_uuid).write_bytes(b"")

    def ended_by_itself(self, vm_uuid: UUID) -> bool:
        """Whether it has ended since, and libvirt did not end it. A file that cannot be read may say so."""
        try:
            reasons = self._path(vm_uuid).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return not _BY_ITSELF.isdisjoint(reasons)

    def forget(self, vm_uuid: UUID) -> None:
        """What became of the guest is known. Raises OSError."""
        self._path(vm_uuid).unlink(missing_ok=True)

    def _path(self, vm_uuid: UUID) -> Path:
        return self._directory / f"{vm_uuid}{ENDED}"
