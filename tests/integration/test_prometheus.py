"""Prometheus's own tools and server take our metrics: promtool's lint, the sample configuration, a real scrape."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.exposition import generate_latest

from services.broker.metrics import BrokerMetrics
from services.donor_agent.metrics import DonorMetrics
from services.node_agent.metrics import NodeMetrics
from services.recipient_agent.metrics import RecipientMetrics
from shared.config import TelemetrySettings
from shared.http import Health, TelemetryServer
from shared.metrics import Metrics
from tests.support.rabbitmq_node import REPOSITORY, free_port

pytestmark = pytest.mark.servers

SAMPLES = REPOSITORY / "deploy/prometheus"


@pytest.mark.parametrize("role", [BrokerMetrics, DonorMetrics, RecipientMetrics, NodeMetrics])
def test_promtool_finds_nothing_to_complain_of(role: Any) -> None:
    """Names, types, units and help texts of every role pass the official lint."""
    metrics = Metrics(service="test", version="0")
    role(metrics.registry)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_sample_configuration_and_alerts_are_valid() -> None:
    """promtool accepts the sample files for operators."""
    done = subprocess.run(
        ["promtool", "check", "config", str(SAMPLES / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_real_prometheus_scrapes_a_process(tmp_path: Path) -> None:
    """A real server reads a real endpoint, with the sample alerts loaded."""
    metrics = Metrics(service="vmport-broker", version="0")
    BrokerMetrics(metrics.registry).ports_total.labels("completed").inc(3)
    settings = TelemetrySettings(port=free_port())
    async with TelemetryServer(settings, metrics, Health()) as server:
        address = f"127.0.0.1:{free_port()}"
        process = await _start(tmp_path, target=f"127.0.0.1:{server.port}", address=address)
        try:
            async with asyncio.timeout(30):
                value = await _ask(address, 'vmport_ports_total{outcome="completed"}')
                assert await _ask(address, 'up{job="vmport"}') == "1"
            assert value == "3"
        finally:
            process.terminate()
            await process.wait()


async def _start(directory: Path, *, target: str, address: str) -> asyncio.subprocess.Process:
    shutil.copy(SAMPLES / "vmport-alerts.yml", directory)
    config = directory / "prometheus.yml"
    sample = (SAMPLES / "prometheus.yml").read_text()
    config.write_text(sample.replace("127.0.0.1:9410", target).replace("15s", "1s"))
    return await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def _ask(address: str, query: str) -> str:
    """Wait until a query has a value, and return it."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://{address}/api/v1/query", params={"query": query}) as response:
                    answer = json.loads(await response.text())
            except (aiohttp.ClientError, json.JSONDecodeError):
                answer = {}
            for result in answer.get("data", {}).get("result", []):
                if result["metric"].get("role") == "broker":
                    return str(result["value"][1])
            await asyncio.sleep(0.3)
