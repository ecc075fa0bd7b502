"""A tenant without our client: any AMQP library and the printed schema are enough, and nonsense harms nobody."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from deploy.labkit import services
from deploy.labkit.lab import Lab
from deploy.labkit.plan import TENANT
from deploy.labkit.state import GuestRecord

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

# Runs in the tenant's host, with a client library that is not ours; reads what to publish from its standard input.
CLIENT = """
import json, sys, pika
job = json.load(sys.stdin)
connection = pika.BlockingConnection(pika.URLParameters(job["url"]))
channel = connection.channel()
channel.confirm_delivery()
for body in job["bodies"]:
    properties = pika.BasicProperties(
        user_id=job["user"], delivery_mode=2, content_type="application/cloudevents+json")
    channel.basic_publish("vmport.to.broker", "", body.encode(), properties, mandatory=True)
connection.close()
"""


def publish(lab: Lab, *bodies: str) -> None:
    """Publish raw bodies to the broker as tenant.acme."""
    url = tomllib.loads(services.config_file(lab.plan, "tenant").read_text())["bus"]["url"]
    job = json.dumps({"url": url, "user": "tenant.acme", "bodies": list(bodies)})
    script = f"import io, sys; sys.stdin = io.StringIO({job!r})\n{CLIENT}"
    done = lab.exec(TENANT, [sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr


def request(guest: GuestRecord, port_id: str, **changes: Any) -> dict[str, Any]:
    """A port request as the schema documents it, written by hand."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": "tenant.acme",
        "type": "vmport.PortRequested",
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:vmport:schema:PortRequested:1",
        "schemaversion": 1,
        "correlationid": port_id,
        "traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
        "data": {"port_id": port_id, "vm_uuid": guest.uuid, "donor": "alpha", "recipient": "beta"},
        **changes,
    }


def test_a_foreign_client_ports_a_vm_after_it_sent_nonsense(
    lab: Lab, tenant: Any, start_guest: Callable[..., GuestRecord]
) -> None:
    """Nonsense is put aside and counted, forged and unknown messages as well; the next good request is served."""
    guest = start_guest("foreign")
    port_id = str(uuid4())
    publish(
        lab,
        "not JSON at all",
        json.dumps(request(guest, str(uuid4()), schemaversion=99)),
        json.dumps(request(guest, str(uuid4()), type="vmport.Nonsense")),
        json.dumps(request(guest, str(uuid4()), source="broker")),
        json.dumps(request(guest, str(uuid4()), data={"port_id": "x"})),
        json.dumps(request(guest, port_id)),
    )
    assert tenant.wait_for_end(port_id)["summary"]["phase"] == "completed"
    broker = next(service for service in services.services(lab.plan) if service.name == "broker")
    _, metrics = services.get(lab.plan, broker, "/metrics")
    for code in ("not_an_envelope", "unknown_version", "unknown_type", "forged_sender", "invalid_body"):
        assert f'vmport_bus_dead_letters_total{{code="{code}"}}' in metrics, metrics
