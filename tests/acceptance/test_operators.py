"""What an operator sees: every process answers on its telemetry port, and a real Prometheus scrapes the whole lab."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from deploy.labkit import services
from deploy.labkit.lab import Lab
from deploy.labkit.plan import HUB

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]


def test_every_process_is_alive_and_ready_and_its_metrics_pass_promtool(lab: Lab) -> None:
    """/healthz, /readyz and /metrics answer on all of them; promtool finds nothing to complain about."""
    for service in services.services(lab.plan):
        for path in ("/healthz", "/readyz"):
            status, body = services.get(lab.plan, service, path)
            assert status == 200, f"{service.name}{path}: {body}"
        _, metrics = services.get(lab.plan, service, "/metrics")
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True, timeout=30, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, ""), service.name
        assert "port_id" not in metrics


def test_a_real_prometheus_scrapes_the_lab(lab: Lab, tmp_path: Path) -> None:
    """All targets of the lab are up, by Prometheus's own word."""
    targets = [f"{lab.plan.wan_address(service.host)}:{service.health_port}" for service in services.services(lab.plan)]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "vmport", "static_configs": [{"targets": targets}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    options = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    command = ["prometheus", *options, "--web.listen-address=127.0.0.1:9590"]
    process = subprocess.Popen(lab.exec_argv(HUB, command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ask = f"http://127.0.0.1:9590/api/v1/query?query={quote('sum(up) and count(vmport_build_info)')}"
        deadline = time.monotonic() + 60
        up = 0.0
        while up < len(targets) and time.monotonic() < deadline:
            time.sleep(1)
            fetch = f"import urllib.request; print(urllib.request.urlopen('{ask}', timeout=3).read().decode())"
            answer = lab.exec(HUB, ["python3", "-c", fetch])
            if answer.returncode == 0 and (found := json.loads(answer.stdout)["data"]["result"]):
                up = float(found[0]["value"][1])
        assert up == len(targets)
    finally:
        process.terminate()
        process.wait(timeout=30)
