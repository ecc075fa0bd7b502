"""Opening the bus."""

from __future__ import annotations

import pytest

from shared.bus import BusDown
from shared.client.connecting import open_bus
from shared.client.settings import ClientSettings
from shared.config import BusSettings


async def test_rabbitmq_that_is_not_there() -> None:
    """The error names the address without the password."""
    bus = BusSettings(url="amqp://tenant.acme:secret@127.0.0.1:1/vmport", connect_timeout_s=0.3)
    with pytest.raises(BusDown, match=r"tenant\.acme@127\.0\.0\.1:1") as caught:
        await open_bus(ClientSettings(bus=bus))
    assert "secret" not in str(caught.value)
