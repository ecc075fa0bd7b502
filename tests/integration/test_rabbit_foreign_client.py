"""A tenant with any AMQP client and no code of ours: a request written by hand, and garbage, sent by pika."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import pika
import pytest

from shared.messages import AnyEnvelope
from shared.messages.service_change import PortRequested
from shared.metrics import Metrics
from shared.parties import BROKER, tenant
from shared.rabbit.bus import RabbitBus
from shared.tasks import Tasks
from tests.support.rabbitmq_node import RabbitNode

pytestmark = pytest.mark.servers

REQUEST = {
    "specversion": "1.0",
    "id": "3f0e6a52-95c5-4f6c-9f4a-0f6a3a1f0c11",
    "source": "tenant.acme",
    "type": "vmport.PortRequested",
    "subject": "7a1f7d0e-2a50-4c58-8f0a-7a2b8a7b9f10",
    "time": "2030-01-01T00:00:00Z",
    "datacontenttype": "application/json",
    "dataschema": "urn:vmport:schema:PortRequested:1",
    "schemaversion": 1,
    "correlationid": "7a1f7d0e-2a50-4c58-8f0a-7a2b8a7b9f10",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "data": {
        "port_id": "7a1f7d0e-2a50-4c58-8f0a-7a2b8a7b9f10",
        "vm_uuid": "0b0a4d8e-5c4f-4a39-9d0b-0e3a0d7f2c33",
        "donor": "alpha",
        "recipient": "best",
        "limits": {"max_downtime_ms": 500},
    },
}
GARBAGE = [
    (b"not even JSON", "not_an_envelope"),
    (json.dumps(REQUEST | {"type": "vmport.GiveMeRoot"}).encode(), "unknown_type"),
    (json.dumps(REQUEST | {"schemaversion": 2}).encode(), "unknown_version"),
    (json.dumps(REQUEST | {"data": {"port_id": "1"}}).encode(), "invalid_body"),
    (json.dumps(REQUEST | {"source": "tenant.globex"}).encode(), "forged_sender"),
]


async def test_request_by_hand_is_heard_and_garbage_is_kept_with_its_reason(rabbitmq: RabbitNode) -> None:
    """The request arrives as a typed message; each piece of garbage is in the dead-letter queue, with the reason."""
    heard: asyncio.Queue[AnyEnvelope] = asyncio.Queue()
    metrics = Metrics(service="t", version="0")
    bus = RabbitBus(rabbitmq.settings(BROKER), metrics.bus)
    async with Tasks("test") as tasks:
        tasks.spawn(bus.consume(heard.put), name="broker listens")
        await asyncio.to_thread(_send, rabbitmq)
        async with asyncio.timeout(20):
            envelope = await heard.get()
    await bus.close()
    assert isinstance(envelope.data, PortRequested)
    assert envelope.data.vm_uuid == UUID("0b0a4d8e-5c4f-4a39-9d0b-0e3a0d7f2c33")
    assert envelope.data.recipient == "best"
    assert envelope.sender == tenant("acme")
    assert await asyncio.to_thread(_dead_letters, rabbitmq) == [
        (body, code, "tenant.acme", "vmport.to.broker") for body, code in GARBAGE
    ]
    for _, code in GARBAGE:
        assert metrics.registry.get_sample_value("vmport_bus_dead_letters_total", {"code": code}) == 1


def _send(rabbitmq: RabbitNode) -> None:
    connection = rabbitmq.connect(tenant("acme"))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(user_id="tenant.acme", content_type="application/cloudevents+json")
    for body in [*(body for body, _ in GARBAGE), json.dumps(REQUEST).encode()]:
        channel.basic_publish("vmport.to.broker", "", body, properties, mandatory=True)
    connection.close()


def _dead_letters(rabbitmq: RabbitNode) -> list[tuple[object, object, object, object]]:
    connection = rabbitmq.connect()
    channel = connection.channel()
    found: list[tuple[object, object, object, object]] = []
    while True:
        _, properties, body = channel.basic_get("vmport.dead.broker", auto_ack=True)
        if properties is None:
            break
        headers = properties.headers or {}
        assert headers["vmport-reason"]
        found.append((body, headers["vmport-code"], headers["vmport-sender"], headers["vmport-exchange"]))
    connection.close()
    return found
