"""A gateway of a neutral prefix on the bus: what it serves, and what it does not answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.gateway import GatewayService
from services.node_agent.network.served import ServedVms
from shared.bus import Reject
from shared.messages import seal
from shared.messages.addresses import AddressesServed, ServeAddresses
from shared.messages.network import CareOf
from shared.messages.porting import QuerySwitchover
from shared.parties import BROKER
from tests.services.node_agent.network.plans import PORT, agreement
from tests.services.node_agent.network.test_keeper import Kernel
from tests.services.node_agent.test_network_service import BETA, Sent

SERVE = ServeAddresses(
    port_id=PORT,
    vm_uuid=UUID(int=5),
    epoch=2,
    owner="beta",
    care_of=(CareOf(address="198.51.100.10", real="10.0.2.1"),),
)


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


async def test_a_gateway_serves_and_says_by_which_epoch(tmp_path: Path, sent: Sent) -> None:
    kernel = Kernel()
    service = GatewayService(ServedVms(tmp_path / "served", kernel), sent)
    await service.handle(seal(SERVE, source=BROKER, message_id=UUID(int=1), now=agreement(None).fixed_at))
    while not sent.messages:  # noqa: ASYNC110  # a list of a fake
        await asyncio.sleep(0)
    assert sent.messages == [AddressesServed(port_id=PORT, vm_uuid=UUID(int=5), epoch=2)]
    assert kernel.made
    question = QuerySwitchover(port_id=PORT)
    with pytest.raises(Reject, match="no use for QuerySwitchover"):
        await service.handle(seal(question, source=BETA, message_id=UUID(int=2), now=agreement(None).fixed_at))
    await service.close()


async def test_what_the_kernel_refuses_is_not_answered(tmp_path: Path, sent: Sent) -> None:
    kernel = Kernel()
    kernel.broken = {"nftables table ip vmport_serve_000000000000"}
    service = GatewayService(ServedVms(tmp_path / "served", kernel), sent)
    await service.handle(seal(SERVE, source=BROKER, message_id=UUID(int=1), now=agreement(None).fixed_at))
    await service.close()
    assert sent.messages == []
