"""The telemetry endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from shared import http as telemetry
from shared.config import TelemetrySettings
from shared.http import Health, TelemetryFailed, TelemetryServer
from shared.metrics import Metrics


class Endpoint:
    """A served process, and what it answers."""

    def __init__(self, server: TelemetryServer, health: Health, session: aiohttp.ClientSession) -> None:
        self.health = health
        self.port = server.port
        self._session = session

    async def get(self, path: str, **headers: str) -> aiohttp.ClientResponse:
        response = await self._session.get(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        await response.read()
        return response

    async def readiness(self) -> tuple[int, Any]:
        response = await self.get("/readyz")
        return response.status, await response.json()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    health = Health()
    server = TelemetryServer(TelemetrySettings(port=0), Metrics(service="t", version="0"), health)
    async with server, aiohttp.ClientSession() as session:
        yield Endpoint(server, health, session)


async def well() -> str | None:
    return None


async def test_metrics_in_both_formats(endpoint: Endpoint) -> None:
    """Prometheus text by default, OpenMetrics on request."""
    plain = await endpoint.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert "vmport_build_info{" in await plain.text()
    modern = await endpoint.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await modern.text()).endswith("# EOF\n")


async def test_health_says_how_long_it_runs(endpoint: Endpoint) -> None:
    """Any answer means that the loop turns."""
    response = await endpoint.get("/healthz")
    assert response.status == 200
    assert (await response.json())["ok"] is True


async def test_not_ready_before_it_runs_nor_while_it_stops(endpoint: Endpoint) -> None:
    """The service's own state is a check like the others."""
    assert (await endpoint.readiness())[0] == 503
    endpoint.health.running()
    assert (await endpoint.readiness())[0] == 200
    endpoint.health.stopping()
    status, body = await endpoint.readiness()
    assert status == 503
    assert body["checks"]["service"] == {"ok": False, "reason": "the service is stopping"}


async def test_every_failing_check_has_its_reason(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says why, one that raises, one that hangs; the good one is not blamed."""
    monkeypatch.setattr(telemetry, "CHECK_TIMEOUT_S", 0.05)

    async def no() -> str | None:
        return "the cable is out"

    async def breaks() -> str | None:
        raise OSError("disk full")

    async def hangs() -> str | None:
        await asyncio.Event().wait()
        return None

    for name, check in (("good", well), ("bus", no), ("store", breaks), ("libvirt", hangs)):
        endpoint.health.add(name, check)
    endpoint.health.running()
    status, body = await endpoint.readiness()
    assert status == 503
    assert body == {
        "ready": False,
        "checks": {
            "service": {"ok": True},
            "good": {"ok": True},
            "bus": {"ok": False, "reason": "the cable is out"},
            "store": {"ok": False, "reason": "OSError: disk full"},
            "libvirt": {"ok": False, "reason": "no answer within 0.05 s"},
        },
    }


async def test_port_that_is_taken_is_said(endpoint: Endpoint) -> None:
    """The error names the address and the setting."""
    other = TelemetryServer(TelemetrySettings(port=endpoint.port), Metrics(service="t", version="0"), Health())
    with pytest.raises(TelemetryFailed, match=rf"127.0.0.1:{endpoint.port}.*\[telemetry\]"):
        await other.__aenter__()
