"""The demo: a Debian guest is ported from one provider to another while it runs, and what is promised is proved.

Owns what is shown and what counts as proof; the lab, the port and the measuring are other modules' work.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from deploy.labkit.connection_report import Report
from deploy.labkit.connection_view import connection_summary, connection_table
from deploy.labkit.disk_compare import Comparison, Region, compare
from deploy.labkit.errors import LabError
from deploy.labkit.guest_images import MIB
from deploy.labkit.guests import WORKLOADS, GuestSpec, quarantined
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.plan import TENANT
from deploy.labkit.port_run import Event, PortRun, run_port
from deploy.labkit.rabbit import RABBITMQ
from shared.client.render import human_bytes, human_seconds
from shared.client.watch_view import WatchView, view_for
from shared.messages import MESSAGE_TYPES
from shared.messages.network import NetworkMode

GUEST = "demo"
REGISTERED_WITHIN_S = 60.0
FULL_PASS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Snapshot:
    """What identifies the guest, read from inside it and from its provider."""

    provider: str
    report: dict[str, Any]
    disk_sha256: str
    domain_uuid: str
    domain_macs: tuple[str, ...]
    disk: Path


@dataclass(frozen=True)
class Proof:
    """One thing that was to hold, whether it does, and what was found."""

    name: str
    holds: bool
    found: str


def parser() -> argparse.ArgumentParser:
    """The demo's command line."""
    top = argparse.ArgumentParser(
        prog="deploy/demo",
        description="Port a running Debian guest from provider alpha to provider beta, and prove it.",
        allow_abbrev=False,
    )
    top.add_argument("--lab", metavar="NAME", help="which lab (env: VMPORT_LAB; default: lab)")
    top.add_argument("--link", metavar="RATE", default="none", help="rate of each provider's uplink, e.g. 100mbit")
    top.add_argument("--rtt", metavar="TIME", default="none", help="round-trip time between providers, e.g. 20ms")
    top.add_argument(
        "--network",
        type=NetworkMode,
        choices=tuple(NetworkMode),
        default=NetworkMode.JOINED,
        metavar="|".join(NetworkMode),
        help="how the guest keeps its addresses (default: joined; else providers have networks of their own)",
    )
    top.add_argument("--memory", type=int, default=512, metavar="MIB")
    top.add_argument("--workload", choices=WORKLOADS, default="writer")
    top.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    top.add_argument("--down", action="store_true", help="only take the lab down")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if the port completed and every proof holds, 1 if not, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    # A MAC such as 52:54:00:ab:08:94 has the name of an emoji in it.
    console = Console(emoji=False)
    try:
        lab = Lab(arguments.lab)
        if arguments.down:
            lab.down()
            return 0
        return _demo(lab, arguments, console)
    except LabError as error:
        console.print(f"[red]demo: {error}[/red]", highlight=False, soft_wrap=True)
        return 1


def _demo(lab: Lab, arguments: argparse.Namespace, console: Console) -> int:
    _prepare(lab, arguments, console)
    # Held still, so that both images can be compared bit by bit; guestd's own blocks lie past the file system.
    lab.guest_report(GUEST, "freeze")
    try:
        before = snapshot(lab)
        console.print(f"[bold]porting {GUEST} from {before.provider} to beta[/bold]")
        with view_for(console) as view:
            done = run_port(
                lab,
                GUEST,
                to="beta",
                options=port_options(arguments.network),
                on_event=lambda event: _show(view, event),
                connections=True,
            )
        proofs, comparison = _prove(lab, before, done) if done.outcome == "completed" else ([], None)
    finally:
        _thaw(lab, console)
    result = {**summary(done, proofs, comparison, arguments), "peak_memory_mib": lab.peak_memory_mib()}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _print_result(console, done, proofs, result)
    return 0 if done.outcome == "completed" and all(proof.holds for proof in proofs) else 1


def port_options(network: NetworkMode) -> tuple[str, ...]:
    """What `vmport port create` is told of the network: nothing where the providers' networks are joined anyway."""
    return () if network is NetworkMode.JOINED else ("--network-mode", network.value)


def _thaw(lab: Lab, console: Console) -> None:
    try:
        lab.guest_report(GUEST, "thaw")
    except LabError as error:  # it must not hide what went wrong before
        console.print(f"[red]the guest's file system stays frozen: {error}[/red]", highlight=False, soft_wrap=True)


def _prepare(lab: Lab, arguments: argparse.Namespace, console: Console) -> None:
    with console.status("bringing the lab up: two providers, RabbitMQ, broker and agents"):
        lab.up(LabOptions(link=arguments.link, rtt=arguments.rtt, network=arguments.network))
    with console.status("building the Debian guest (once, about two minutes)"):
        lab.guest_build(debian=True)
    with console.status("booting the guest at alpha"):
        if GUEST in lab.guests:
            lab.guest_remove(GUEST)
        spec = GuestSpec(GUEST, "alpha", memory_mib=arguments.memory, workload=arguments.workload, image="debian")
        record = lab.guest_start(spec)
    with console.status("waiting until the broker's registry knows the guest"):
        _wait_until_registered(lab, record.uuid)


def _wait_until_registered(lab: Lab, uuid: str) -> None:
    deadline = time.monotonic() + REGISTERED_WITHIN_S
    while True:
        shown = lab.exec(TENANT, ["vmport", "--format", "json", "vm", "list"])
        if shown.returncode == 0 and any(vm["uuid"] == uuid for vm in json.loads(shown.stdout)):
            return
        if time.monotonic() > deadline:
            raise LabError(
                f"the broker does not know the guest after {REGISTERED_WITHIN_S:.0f} s: {shown.stderr or shown.stdout}"
            )
        time.sleep(0.5)


def snapshot(lab: Lab) -> Snapshot:
    """Read the guest's identity where it runs now."""
    place = lab.guest_place(GUEST)
    uuid = lab.guest(GUEST).uuid
    root = ElementTree.fromstring(lab.virsh(place.provider, "dumpxml", uuid))  # noqa: S314 - from our own libvirtd
    source = root.find("devices/disk/source")
    if source is None:
        raise LabError(f"guest {GUEST} has no disk")
    return Snapshot(
        provider=place.provider,
        report=lab.guest_report(GUEST),
        disk_sha256=lab.guest_report(GUEST, "disk-sha256")["disk_sha256"],
        domain_uuid=root.findtext("uuid", ""),
        domain_macs=tuple(mac.get("address", "") for mac in root.findall("devices/interface/mac")),
        disk=lab.host_path(place.provider, source.get("file", "")),
    )


def _prove(lab: Lab, before: Snapshot, done: PortRun) -> tuple[list[Proof], Comparison]:
    after = snapshot(lab)
    layout = lab.guest_build(debian=True).layout
    writes = lab.guest(GUEST).workload == "writer"
    region = Region(layout.blocks_offset_mib * MIB, layout.blocks_mib * MIB) if writes else Region()
    uuid = lab.guest(GUEST).uuid
    lab.virsh(after.provider, "suspend", uuid)  # the image must stand still while it is read
    try:
        comparison = compare(quarantined(before.disk), after.disk, region)
    finally:
        lab.virsh(after.provider, "resume", uuid)
    at_donor = _what_is_left(lab, before.provider, uuid)
    last = _after_full_pass(lab, after.report)
    return proofs(before, after, last=last, comparison=comparison, at_donor=at_donor, done=done), comparison


def _after_full_pass(lab: Lab, since: dict[str, Any]) -> dict[str, Any]:
    """A report from after the writer has gone over all of its pages since the port; of other workloads the next one."""
    deadline = time.monotonic() + FULL_PASS_WITHIN_S
    while True:
        report = lab.guest_report(GUEST)
        # The pass under way at the first report may have begun before the port: only the next one counts.
        if report["workload"] != "writer" or report["passes"] >= since["passes"] + 2:
            return report
        if time.monotonic() > deadline:
            raise LabError(f"the guest did not go over its pages in {FULL_PASS_WITHIN_S:.0f} s after the port")
        time.sleep(0.5)


def _what_is_left(lab: Lab, provider: str, uuid: str) -> str | None:
    """What the provider still has of the guest: a domain or a QEMU process; None for nothing."""
    pids = [pid for pid, command in lab.host_processes(provider).items() if uuid in command]
    if pids:
        return f"QEMU process {pids[0]}"
    known = lab.virsh(provider, "list", "--all", "--uuid").split()
    return "a domain" if uuid in known else None


def proofs(
    before: Snapshot,
    after: Snapshot,
    *,
    last: dict[str, Any],
    comparison: Comparison,
    at_donor: str | None,
    done: PortRun,
) -> list[Proof]:
    """Everything that a port promises, checked. Pure."""
    ours, theirs = before.report, after.report
    rewritten = f"; {comparison.rewritten_blocks} blocks that the guest wrote since are newer" * bool(
        comparison.rewritten_blocks
    )
    disk = f"{human_bytes(comparison.compared_bytes)} compared{rewritten}"
    if comparison.differences:
        disk = f"{len(comparison.differences)} blocks differ, the first at {comparison.differences[0]}"
    return [
        Proof("runs at beta", after.provider == "beta", after.provider),
        Proof("same boot", ours["boot_id"] == theirs["boot_id"], theirs["boot_id"]),
        Proof("uptime goes on", last["uptime_s"] > ours["uptime_s"], f"{ours['uptime_s']} → {last['uptime_s']} s"),
        Proof("no mismatch", last["mismatches"] == 0, f"{last['mismatches']} ({_checks(last)})"),
        Proof("disk identical", comparison.identical, disk),
        Proof("same static data, read by the guest", before.disk_sha256 == after.disk_sha256, after.disk_sha256[:16]),
        Proof("UUID kept", before.domain_uuid == after.domain_uuid == theirs["uuid"], after.domain_uuid),
        Proof("MAC kept", before.domain_macs == after.domain_macs == (theirs["mac"],), ", ".join(after.domain_macs)),
        Proof("donor no longer has it", at_donor is None, at_donor or "no domain and no QEMU process"),
        Proof("client reached it again", done.seen.answered > 0, f"{done.seen.answered} of {done.seen.sent} echoes"),
        *connection_proofs(done.connections),
    ]


def connection_proofs(fared: Report | None) -> list[Proof]:
    """That no connection was lost, where they were watched. Pure."""
    if fared is None:
        return []
    errors = [error for kind in fared.kinds.values() for error in kind.errors]
    found = f"{fared.kept} of {fared.connections}" + "".join(f"; {error}" for error in errors)
    return [Proof("connections kept", fared.kept == fared.connections, found)]


def _checks(report: dict[str, Any]) -> str:
    parts = {"pages": "page_checks", "blocks": "block_checks", "requests": "service_requests"}
    return ", ".join(f"{report[key]} {name} checked" for name, key in parts.items() if report[key]) or "idle"


def summary(
    done: PortRun, proven: list[Proof], comparison: Comparison | None, arguments: argparse.Namespace
) -> dict[str, Any]:
    """The result as JSON."""
    sla = done.result.get("sla") or {}
    found = {proof.name: proof for proof in proven}
    mismatch = found.get("no mismatch")
    return {
        "port_id": done.port_id,
        "outcome": done.outcome,
        "detail": done.result.get("detail", ""),
        "total_s": sla.get("measured_total_s"),
        "downtime_ms": sla.get("measured_downtime_ms"),
        "outage_ms": done.seen.outage_ms,
        "measured_outage_ms": sla.get("measured_outage_ms"),
        **connection_summary(done.connections),
        "switchover_outage_ms": done.switchover_outage_ms(),
        "beyond_downtime_ms": beyond_downtime(done),
        "wire_bytes": done.wire_bytes,
        "wire_bytes_sent": done.wire.sent,
        "wire_bytes_received": done.wire.received,
        "memory_bytes": done.result.get("memory_bytes"),
        "disk_bytes": done.result.get("disk_bytes"),
        "mismatches": int(mismatch.found.split()[0]) if mismatch else None,
        "disk_identical": comparison.identical if comparison else None,
        "proved": bool(proven) and all(proof.holds for proof in proven),
        "proofs": [asdict(proof) for proof in proven],
        "phases": [asdict(phase) for phase in done.phases()],
        "network": str(arguments.network),
        "link": arguments.link,
        "rtt": arguments.rtt,
        "memory_mib": arguments.memory,
        "workload": arguments.workload,
        "sla": sla or None,
    }


def beyond_downtime(done: PortRun) -> dict[str, float]:
    """By family, how much longer than the guest stood still a client waited at the switchover, in ms. Pure."""
    downtime_ms = (done.result.get("sla") or {}).get("measured_downtime_ms")
    if downtime_ms is None:
        return {}
    return {family: round(outage_ms - downtime_ms, 1) for family, outage_ms in done.switchover_outage_ms().items()}


def _show(view: WatchView, event: Event) -> None:
    kind = MESSAGE_TYPES.get(event["type"])
    if kind is not None:
        view.show(kind.model_validate(event["data"]))


def _largest(peaks: dict[str, float]) -> list[tuple[str, float]]:
    """RabbitMQ and the largest of vmport's own processes."""
    own = {name: mib for name, mib in peaks.items() if name != RABBITMQ}
    shown = [max(own.items(), key=lambda item: item[1])] if own else []
    return [*shown, *((RABBITMQ, peaks[RABBITMQ]) for _ in range(RABBITMQ in peaks))]


def _measured_outage(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The services' own figure, where they have one."""
    outage_ms = result["measured_outage_ms"]
    return [] if outage_ms is None else [("outage that vmport measured", f"{outage_ms} ms")]


def _switchover_outage(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What a client saw of the switchover alone, where its connections were watched."""
    beyond = result["beyond_downtime_ms"]
    return [
        (f"outage at the switchover, {family}", f"{outage_ms} ms; beyond the downtime {beyond.get(family)} ms")
        for family, outage_ms in result["switchover_outage_ms"].items()
    ]


def _print_result(console: Console, done: PortRun, proven: list[Proof], result: dict[str, Any]) -> None:
    console.print(f"[bold]port {done.port_id}: {done.outcome}[/bold]", highlight=False, soft_wrap=True)
    phases = Table("PHASE", "SECONDS")
    for phase in done.phases():
        phases.add_row(phase.phase, f"{phase.seconds:.2f}")
    console.print(phases)
    figures = Table("MEASURED", "")
    for name, value in (
        ("total", human_seconds(result["total_s"] or 0)),
        ("downtime of the guest", f"{result['downtime_ms']} ms"),
        ("outage that a client saw", f"{result['outage_ms']} ms"),
        *_measured_outage(result),
        *_switchover_outage(result),
        ("memory", human_bytes(result["memory_bytes"] or 0)),
        ("disk", human_bytes(result["disk_bytes"] or 0)),
        ("on the donor's uplink", human_bytes(result["wire_bytes"])),
        ("peak memory", ", ".join(f"{name} {mib:.0f} MiB" for name, mib in _largest(result["peak_memory_mib"]))),
    ):
        figures.add_row(name, value)
    console.print(figures)
    if done.connections is not None:
        console.print(connection_table(done.connections))
    proof_table = Table("PROOF", "")
    proof_table.add_column("FOUND", overflow="fold")
    for proof in proven:
        proof_table.add_row(proof.name, "[green]yes[/green]" if proof.holds else "[red]NO[/red]", proof.found)
    if proven:
        console.print(proof_table)
    if result["detail"] or done.errors:
        console.print(result["detail"] or done.errors, highlight=False, soft_wrap=True)
    console.print(
        "The lab is up. Try:\n"
        "  deploy/lab status\n"
        "  deploy/lab exec tenant -- vmport vm list\n"
        f"  deploy/lab exec tenant -- vmport port create {GUEST} --to alpha --watch\n"
        "  deploy/lab exec beta -- virsh console demo    (root, no password; Ctrl-] leaves)\n"
        "  deploy/demo --down",
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())
