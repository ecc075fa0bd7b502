"""Opens the bus for a tenant's program: the command line and the `vmport` package. Owns no conversation."""

from __future__ import annotations

from shared import bus
from shared.client.settings import ClientSettings


async def open_bus(settings: ClientSettings) -> bus.Session:
    """A session on RabbitMQ; raises `shared.bus.BusDown` with the reason after ``bus.connect_timeout_s``."""
    # RabbitMQ's client library takes a third of a second to import; `vmport --help` does not need it.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from shared.metrics import BusMetrics  # noqa: PLC0415
    from shared.rabbit.session import open_session  # noqa: PLC0415

    return await open_session(settings.bus, BusMetrics(CollectorRegistry()))
