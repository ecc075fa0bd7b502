"""The lab's networks: namespaces, the WAN with one uplink per host, rate and delay, and the guests' joined network.

The networks of a routed lab are made by `routed_network.py`.

Every function makes what is missing and leaves what is right, so that `up` may be repeated. Rate is tbf's work; delay
is netem's where the kernel has it and `delay_forwarder.c`'s where it has not.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.labkit import addressing, processes
from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.plan import CLIENT, GUEST_BRIDGE, HUB, WAN_BRIDGE, WAN_DEVICE, LabPlan
from deploy.labkit.processes import run
from deploy.labkit.state import LabState, ProcessRecord

_RATE = re.compile(r"(\d+(?:\.\d+)?)(k|m|g)bit")
_RTT = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)?")
_BITS = {"k": 1e3, "m": 1e6, "g": 1e9}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_HUB_MAC = "02:77:00:00:00:01"


@dataclass(frozen=True)
class LinkBytes:
    """Bytes that crossed a host's uplink since it was made, link-layer headers included."""

    sent: int
    received: int

    def since(self, earlier: "LinkBytes") -> "LinkBytes":
        """What crossed between two readings."""
        return LinkBytes(self.sent - earlier.sent, self.received - earlier.received)


def parse_rate(text: str) -> str | None:
    """A rate as tc writes it (`100mbit`), None for `none`. Raises `ValueError`."""
    if text == "none":
        return None
    if not _RATE.fullmatch(text):
        raise ValueError(f"link rate {text!r}: write e.g. 100mbit, 1gbit, 500kbit or none")
    return text


def parse_rtt(text: str) -> float:
    """A round-trip time in milliseconds from `20ms`, `20` or `none`. Raises `ValueError`."""
    if text == "none":
        return 0.0
    match = _RTT.fullmatch(text)
    if not match:
        raise ValueError(f"round-trip time {text!r}: write e.g. 20ms or none")
    return float(match[1]) * _MILLISECONDS[match[2] or "ms"]


def link_bytes_per_s(rate: str) -> float | None:
    """What a rate as tc writes it comes to; None for `none`. Raises `ValueError`."""
    if parse_rate(rate) is None:
        return None
    match = _RATE.fullmatch(rate)
    return None if match is None else float(match[1]) * _BITS[match[2]] / 8


def burst_bytes(rate: str) -> int:
    """A bucket of 10 ms at the rate, at least one offloaded segment, so that tbf neither stalls nor lets bursts by."""
    match = _RATE.fullmatch(rate)
    if match is None:
        raise ValueError(f"link rate {rate!r}")
    return max(80_000, int(float(match[1]) * _BITS[match[2]] / 8 * 0.01))


def ensure_namespaces(plan: LabPlan) -> None:
    """One network namespace per host, its loopback up."""
    for host in plan.hosts:
        name = plan.namespace(host)
        if not plan.namespace_path(host).exists():
            run(["ip", "netns", "add", name])
        ip(plan, host, "link set lo up")


def ensure_wan(plan: LabPlan) -> None:
    """The hub's bridge, to which every uplink is joined."""
    if not has_device(plan, HUB, WAN_BRIDGE):
        ip(
            plan,
            HUB,
            # A MAC of its own: else the bridge takes another one when an uplink leaves it, and nobody finds the hub.
            f"link add {WAN_BRIDGE} mtu {plan.wan_mtu} address {_HUB_MAC} type bridge forward_delay 0 stp_state 0",
            f"addr add {plan.wan_address(HUB)}/24 dev {WAN_BRIDGE}",
            f"link set {WAN_BRIDGE} up",
        )


def ensure_uplink(plan: LabPlan, state: LabState, host: str) -> ProcessRecord | None:
    """The host's uplink, of the kind that the wanted delay needs; returns the forwarder that carries it, if any."""
    delay_us = round(state.rtt_ms * 1000 / 4) if host in plan.providers else 0
    name = f"forwarder-{host}"
    forwarder = state.processes.get(name)
    alive = forwarder is not None and processes.is_alive(forwarder)
    needs_forwarder = delay_us > 0 and not kernel_has_netem(plan)
    right = has_device(plan, host, WAN_DEVICE) and has_device(plan, HUB, plan.hub_port(host))
    if forwarder is not None and alive and (not needs_forwarder or _delay_of(forwarder) != delay_us):
        processes.end([forwarder], grace_s=1.0)
        alive = right = False
    if not needs_forwarder:
        forwarder = None
        if not right:
            _remove_uplink(plan, host)
            _add_veth(plan, host)
    elif not alive:
        _remove_uplink(plan, host)
        forwarder = _start_forwarder(plan, host, delay_us)
    _configure_uplink(plan, host)
    _shape(plan, host, rate=state.link if host in plan.providers else None, netem_us=0 if forwarder else delay_us)
    return forwarder


def cut_uplink(plan: LabPlan, host: str) -> None:
    """Have the hub drop all that the host sends and gets, as a provider's link that is cut far away does."""
    ip(plan, HUB, f"link set {plan.hub_port(host)} nomaster")


def join_uplink(plan: LabPlan, host: str) -> None:
    """Undo `cut_uplink`."""
    ip(plan, HUB, f"link set {plan.hub_port(host)} master {WAN_BRIDGE}")


def ensure_joined_network(plan: LabPlan) -> None:
    """A bridge per provider, all joined to one network, and the client in the first provider's."""
    for provider in plan.providers:
        if has_device(plan, provider, "vx0"):
            continue
        lines = (
            []
            if has_device(plan, provider, GUEST_BRIDGE)
            else [
                f"link add {GUEST_BRIDGE} type bridge forward_delay 0 stp_state 0",
                f"link set {GUEST_BRIDGE} up",
            ]
        )
        ip(
            plan,
            provider,
            *lines,
            f"link add vx0 type vxlan id 10 local {plan.wan_address(provider)} dstport 4789",
            f"link set vx0 master {GUEST_BRIDGE} up",
        )
        # A frame for nobody known goes to every other provider; bridges learn from the answers.
        for other in plan.providers:
            if other != provider:
                entry = ["fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", plan.wan_address(other)]
                run(["bridge", "-n", plan.namespace(provider), *entry])
    first = plan.providers[0]
    here = addressing.client(plan)
    if not has_device(plan, CLIENT, "eth0"):
        ip(
            plan,
            CLIENT,
            f"link add eth0 type veth peer name client netns {plan.namespace(first)}",
            f"addr add {here.ip} dev eth0",
            f"addr add {here.ip6} dev eth0 nodad",
            "link set eth0 up",
        )
        ip(plan, first, f"link set client master {GUEST_BRIDGE} up")


def read_link_bytes(plan: LabPlan, host: str) -> LinkBytes:
    """The uplink's own counters, read from the queueing disciplines at its two ends.

    Those count every segment with its headers; a device counts an offloaded 64 KiB segment's headers only once.
    """
    return LinkBytes(sent=_qdisc_bytes(plan, host, WAN_DEVICE), received=_qdisc_bytes(plan, HUB, plan.hub_port(host)))


def ip(plan: LabPlan, host: str, *lines: str) -> None:
    """Run lines of the `ip` command in a host, at once. Raises `CommandFailed`."""
    run(["ip", "-n", plan.namespace(host), "-batch", "-"], stdin="\n".join(lines) + "\n")


def forget_neighbours(plan: LabPlan, host: str, addresses: Iterable[str]) -> None:
    """Have a host ask again which MACs these addresses have."""
    for address in addresses:
        run(["ip", "-n", plan.namespace(host), "neigh", "flush", "to", address])


def remove_namespaces(prefix: str) -> None:
    """Remove the names of all namespaces of a lab; the kernel removes what is in them."""
    for name in namespaces_with(prefix):
        with suppress(CommandFailed):  # `down` verifies afterwards and names what is left
            run(["ip", "netns", "del", name])


def namespaces_with(prefix: str) -> list[str]:
    """Names of the network namespaces that begin so."""
    folder = Path("/run/netns")
    return sorted(entry.name for entry in folder.glob(f"{prefix}*")) if folder.is_dir() else []


def has_device(plan: LabPlan, host: str, device: str) -> bool:
    """Whether the device exists in the host."""
    with suppress(CommandFailed):
        run(["ip", "-n", plan.namespace(host), "link", "show", "dev", device])
        return True
    return False


def kernel_has_netem(plan: LabPlan) -> bool:
    """Whether tc can delay by itself here; tried on the hub's loopback, which carries nothing yet."""
    device = [plan.namespace(HUB), "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1us"]
    try:
        run(["tc", "-n", *device])
    except CommandFailed:
        return False
    run(["tc", "-n", plan.namespace(HUB), "qdisc", "del", "dev", "lo", "root"])
    return True


def _remove_uplink(plan: LabPlan, host: str) -> None:
    for place, device in ((host, WAN_DEVICE), (HUB, plan.hub_port(host))):
        if has_device(plan, place, device):
            ip(plan, place, f"link del {device}")


def _add_veth(plan: LabPlan, host: str) -> None:
    peer = f"name {plan.hub_port(host)} netns {plan.namespace(HUB)}"
    ip(plan, host, f"link add {WAN_DEVICE} type veth peer {peer}")


def _start_forwarder(plan: LabPlan, host: str, delay_us: int) -> ProcessRecord:
    ends = [str(plan.namespace_path(host)), WAN_DEVICE, str(plan.namespace_path(HUB)), plan.hub_port(host)]
    record = processes.spawn(
        [str(build_forwarder(plan)), *ends, str(delay_us)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        log=plan.log_dir / f"forwarder-{host}.log",
    )
    processes.wait_until(
        lambda: has_device(plan, HUB, plan.hub_port(host)) or not processes.is_alive(record),
        what=f"delay forwarder of {host}",
        timeout_s=5,
    )
    if not processes.is_alive(record):
        raise LabError(
            f"delay forwarder of {host} ended: {(plan.log_dir / f'forwarder-{host}.log').read_text('utf-8').strip()}"
        )
    return record


def build_forwarder(plan: LabPlan) -> Path:
    """Compile the delay forwarder into the lab's state directory, unless it is there and newer than its source."""
    source = Path(__file__).with_name("delay_forwarder.c")
    program = plan.state_dir / "delay_forwarder"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        run(["gcc", "-O2", "-Wall", "-pthread", "-o", str(program), str(source)])
    return program


def _delay_of(forwarder: ProcessRecord) -> int:
    arguments = Path(f"/proc/{forwarder.pid}/cmdline").read_bytes().split(b"\0")
    return int(arguments[5])


def _configure_uplink(plan: LabPlan, host: str) -> None:
    ip(
        plan,
        host,
        f"link set {WAN_DEVICE} mtu {plan.wan_mtu} up",
        f"addr replace {plan.wan_address(host)}/24 dev {WAN_DEVICE}",
    )
    ip(plan, HUB, f"link set {plan.hub_port(host)} mtu {plan.wan_mtu} master {WAN_BRIDGE} up")


def _shape(plan: LabPlan, host: str, *, rate: str | None, netem_us: int) -> None:
    """Shape both directions of an uplink, each where it enters the link. A new shape sets its counters to zero."""
    for place, device in ((host, WAN_DEVICE), (HUB, plan.hub_port(host))):
        wanted = _qdiscs(rate, netem_us)
        if _shape_mark(plan, place, device) == _mark(wanted):
            continue
        tc = ["tc", "-n", plan.namespace(place), "qdisc"]
        with suppress(CommandFailed):  # the first time there is nothing to delete
            run([*tc, "del", "dev", device, "root"])
        for arguments in wanted:
            run([*tc, "add", "dev", device, *arguments.split()])
        ip(plan, place, f"link set {device} alias {_mark(wanted)}")


def _qdiscs(rate: str | None, netem_us: int) -> list[str]:
    """The wanted queueing disciplines, outermost first. The outermost one counts what leaves."""
    tbf = None if rate is None else f"tbf rate {rate} burst {burst_bytes(rate)} latency 50ms"
    if netem_us:
        netem = f"root handle 1: netem delay {netem_us}us limit 50000"
        return [netem] if tbf is None else [netem, f"parent 1:1 handle 10: {tbf}"]
    return ["root handle 1: pfifo limit 1000" if tbf is None else f"root handle 1: {tbf}"]


def _mark(qdiscs: list[str]) -> str:
    return ";".join(qdiscs).replace(" ", "_").replace(":", "")


def _shape_mark(plan: LabPlan, place: str, device: str) -> str:
    shown = json.loads(run(["ip", "-n", plan.namespace(place), "-j", "link", "show", "dev", device]))
    return str(shown[0].get("ifalias", ""))


def _qdisc_bytes(plan: LabPlan, host: str, device: str) -> int:
    shown = json.loads(run(["tc", "-n", plan.namespace(host), "-s", "-j", "qdisc", "show", "dev", device]))
    return next(int(qdisc["bytes"]) for qdisc in shown if qdisc.get("root"))
