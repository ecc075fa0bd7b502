"""vmport from Python: port a running virtual machine from one cloud provider to another.

    import asyncio, uuid, vmport

    async def main() -> None:
        async with vmport.connect("amqp://tenant.acme:PASSWORD@rabbitmq.example/vmport") as client:
            [vm] = [vm for vm in await client.vms() if vm.name == "web"]
            port = vmport.PortRequested(port_id=uuid.uuid4(), vm_uuid=vm.uuid, donor=vm.provider, recipient="best")
            await client.create_port(port)
            await client.wait_fixed(port.port_id)
            async for envelope in client.watch(port.port_id):
                print(envelope.data)

    asyncio.run(main())

Every error is a `VmportError` with a stable ``code``. Nothing is written to standard output or standard error; log
events go to the standard library's loggers ``shared.*``. `PortLimits` bounds a port; rates are in
bytes per second, times are aware datetimes.
All names but `connect` are imported at their first use, so that ``import vmport`` itself takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vmport.connect import connect

if TYPE_CHECKING:
    from vmport.client import Client, PortLimits, PortPhase, PortRequested
    from vmport.errors import (
        BusDown,
        CancelNotPossible,
        ConfigError,
        NoAnswer,
        NotFixedInTime,
        NotUnderstood,
        PortEndedOtherwise,
        PortNotAllowed,
        QuestionFailed,
        Undeliverable,
        VmportError,
    )
    from vmport.version import __version__

__all__ = [
    "BusDown",
    "CancelNotPossible",
    "Client",
    "ConfigError",
    "NoAnswer",
    "NotFixedInTime",
    "NotUnderstood",
    "PortEndedOtherwise",
    "PortLimits",
    "PortNotAllowed",
    "PortPhase",
    "PortRequested",
    "QuestionFailed",
    "Undeliverable",
    "VmportError",
    "__version__",
    "connect",
]

_CLIENT = {"Client", "PortLimits", "PortPhase", "PortRequested"}


if not TYPE_CHECKING:  # to a type checker, a name that is not listed is an error

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'vmport' has no attribute {name!r}")
        home = "version" if name == "__version__" else "client" if name in _CLIENT else "errors"
        value: object = getattr(import_module(f"vmport.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
