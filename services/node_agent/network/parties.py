"""Whom the keeper of a host's network works with, and what it raises."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from shared.errors import VmportError
from shared.messages.addresses import NetworkState
from shared.messages.network import NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side


class NetworkFailed(VmportError):
    """The host's network could not be made ready for a port."""

    code = "network_not_ready"


class MovedVm(Protocol):
    """By which port a VM has moved, and what of that matters to the network; a `ServiceChangeAgreement` is one."""

    @property
    def port_id(self) -> UUID: ...
    @property
    def vm_uuid(self) -> UUID: ...
    @property
    def epoch(self) -> int: ...
    @property
    def network(self) -> NetworkPlan | None: ...


class Extensions(Protocol):
    """The layer-2 extensions of ports."""

    async def open(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> None:
        """Have the devices of a port's extension, joined to their bridges; it connects in the background. `activated`:
        the guest runs at the recipient already, or may.

        Raises `VmportError`, OSError. Nothing is done where it is open.
        """
        ...

    def activate(self, port_id: UUID) -> None:
        """The guest may run at the recipient from now on, or does; nothing is done where it is not open."""
        ...

    def deactivate(self, port_id: UUID) -> None:
        """The guest runs at the donor again; nothing is done where it is not open."""
        ...

    async def close(self, port_id: UUID) -> None:
        """End it and remove its devices; nothing is done where there is none."""
        ...

    def idle_s(self, port_id: UUID) -> float | None:
        """For how many seconds it has carried nothing; None where there is none."""
        ...


class Report(Protocol):
    """Tells the broker how far this node is."""

    def __call__(self, agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
        """Arrives whatever happens to this process."""
        ...
