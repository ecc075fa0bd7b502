"""vmport for Python programs: ask for ports of your virtual machines, and follow them.

    import asyncio
    import vmport

    async def main() -> None:
        async with vmport.connect("amqp://tenant.acme:secret@rabbitmq.example/vmport") as client:
            [web] = [vm for vm in await client.vms() if vm.name == "web"]
            request = vmport.PortRequested(
                port_id=vmport.new_port_id(), vm_uuid=web.uuid, donor=web.provider, recipient="beta"
            )
            await client.create_port(request)
            agreement = await client.wait_fixed(request.port_id)
            async for event in client.watch(request.port_id):
                print(event.time, type(event.data).__name__)

    asyncio.run(main())

Every call is bounded, and raises one of the errors in `vmport.errors`. The library prints nothing: its log events go to
the standard library's `logging`, below the logger `shared`, and are seen only where the program asks for them.
"""

from __future__ import annotations

from uuid import uuid4 as new_port_id

from shared.client.sdk import TenantClient
from shared.messages.service_change import PortLimits, PortRequested
from vmport import errors
from vmport.connect import connect
from vmport.version import __version__

__all__ = ["PortLimits", "PortRequested", "TenantClient", "__version__", "connect", "errors", "new_port_id"]
