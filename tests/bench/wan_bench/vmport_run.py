"""Moves the guest with vmport: the tenant's own command, watched to its end, node agents set for the variant."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from deploy.labkit.errors import LabError
from deploy.labkit.lab import Lab
from deploy.labkit.plan import TENANT
from deploy.labkit.port_run import Event, event_lines
from tests.bench.wan_bench.guest import NAME
from tests.bench.wan_bench.measure import Kinds, measuring
from tests.bench.wan_bench.stock import Moved

KNOWN_WITHIN_S = 60.0
_WIRE = "vmport_stream_wire_bytes_total"
_ROUTE_SHARE = 0.95


@dataclass
class NodeAgents:
    """The lab's node agents, restarted only when their settings change."""

    lab: Lab
    overrides: dict[str, dict[str, str]] = field(default_factory=dict)

    def run_with(self, overrides: Mapping[str, dict[str, str]]) -> None:
        """Have each provider's run with `VMPORT_…` variables on top of its settings."""
        for provider, chosen in overrides.items():
            if self.overrides.get(provider, {}) != chosen:
                self.lab.stop_service(f"node-{provider}")
                self.lab.start_service(f"node-{provider}", chosen)
                self.overrides[provider] = chosen


def port(lab: Lab, donor: str, to: str, *, route: str, timeout_s: float, max_downtime_ms: int | None) -> Moved:
    """Port the guest. One that does not end in time is cancelled and stays where it is.

    One that went by another route than the variant's has failed: it is no measurement of that variant.
    """
    _wait_until_known(lab, donor)
    limit = [] if max_downtime_ms is None else ["--max-downtime", f"{max_downtime_ms}ms"]
    command = ["vmport", "--format", "json", "port", "create", lab.guest(NAME).uuid, "--to", to, "--watch"]
    command += ["--post-copy", "never", *limit]
    before = _counters(lab, donor)
    lab.forget_peak_memory()
    events: list[Event] = []
    errors = ""
    with (
        _cancelled_after(lab, timeout_s, events) as expired,
        measuring(lab, donor, lambda: _kinds(_counters(lab, donor), before)) as measured,
    ):
        for event in event_lines(lab, command):
            if event["type"] == "Error":
                errors = str(event["data"])
            else:
                events.append(event)
    grown = {name: value - before.get(name, 0) for name, value in _counters(lab, donor).items()}
    grown = {name: value for name, value in grown.items() if value > 0}
    result = events[-1]["data"] if events and events[-1]["type"] == "Outcome" else {}
    outcome = result.get("outcome", "failed")
    if outcome != "completed":
        said = json.dumps({key: result[key] for key in ("outcome", "detail", "refusals") if result.get(key)})
        outcome = "timeout" if expired.is_set() else "failed"
        return Moved(outcome, measured, techniques=grown, detail=f"{said} {errors}".strip())
    if fault := route_fault(route, grown):
        return Moved("failed", measured, techniques=grown, detail=fault)
    peaks = lab.peak_memory_mib()
    return Moved(
        outcome,
        measured,
        downtime_ms=(result.get("sla") or {}).get("measured_downtime_ms"),
        memory_bytes=result.get("memory_bytes"),
        disk_bytes=result.get("disk_bytes"),
        techniques=grown,
        peak_memory_mib={side: peaks[f"node-{at}"] for side, at in (("donor", donor), ("recipient", to))},
    )


def _wait_until_known(lab: Lab, provider: str) -> None:
    uuid = lab.guest(NAME).uuid
    deadline = time.monotonic() + KNOWN_WITHIN_S
    while True:
        shown = lab.exec(TENANT, ["vmport", "--format", "json", "vm", "list"])
        known = json.loads(shown.stdout) if shown.returncode == 0 else []
        if any(vm["uuid"] == uuid and vm["provider"] == provider for vm in known):
            return
        if time.monotonic() > deadline:
            raise LabError(f"the broker does not know the guest at {provider}: {shown.stderr or shown.stdout}")
        time.sleep(0.5)


@contextmanager
def _cancelled_after(lab: Lab, timeout_s: float, events: list[Event]) -> Iterator[threading.Event]:
    """Cancel the port when the time is over; the yielded event says that it was."""
    expired = threading.Event()

    def cancel() -> None:
        expired.set()
        for port_id in {event["data"]["port_id"] for event in list(events) if "port_id" in event["data"]}:
            lab.exec(TENANT, ["vmport", "port", "cancel", port_id])

    timer = threading.Timer(timeout_s, cancel)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join(timeout=150)


def _counters(lab: Lab, provider: str) -> dict[str, float]:
    """Every byte and content counter of the provider's node agent, by name and labels."""
    with suppress(OSError):
        return byte_counters(lab.metrics(f"node-{provider}"))
    return {}


def byte_counters(text: str) -> dict[str, float]:
    """From the text of /metrics: counters of vmport's streams, lanes and codec. Pure."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        if family.type == "counter" and family.name.startswith(("vmport_stream", "vmport_lane", "vmport_codec"))
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def route_fault(route: str, grown: Mapping[str, float]) -> str:
    """Why a run was none over this route, by the wire bytes that the donor's node counted; empty if it was. Pure."""
    by_route: dict[str, float] = {}
    for name, value in grown.items():
        words = name.split()
        if words[0] == _WIRE:
            way = next((word.removeprefix("route=") for word in words if word.startswith("route=")), "unknown")
            by_route[way] = by_route.get(way, 0) + value
    share = by_route.get(route, 0) / (sum(by_route.values()) or 1)
    # A lane may begin, or wait out a break, on the relay.
    return "" if share >= _ROUTE_SHARE else f"only {share:.0%} of the lanes' bytes went by {route}"


def _kinds(now: dict[str, float], before: dict[str, float]) -> Kinds:
    """Bytes on the lanes by what they carried."""
    kinds: Kinds = {}
    for name, value in now.items():
        words = name.split()
        lane = next((word.removeprefix("lane=") for word in words if word.startswith("lane=")), "")
        if words[0] == _WIRE:
            kinds[lane] = kinds.get(lane, 0) + int(value - before.get(name, 0))
    return kinds
