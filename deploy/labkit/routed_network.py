"""The networks of a routed lab: a router and a network of its own at each provider, the client and the neutral party.

The hub forwards between them. Every function makes what is missing and leaves what is right.
"""

from contextlib import suppress

from deploy.labkit import addressing
from deploy.labkit.addressing import Station
from deploy.labkit.errors import CommandFailed
from deploy.labkit.network import has_device, ip
from deploy.labkit.plan import CLIENT, CLIENT_PORT, GUEST_BRIDGE, HUB, WAN_BRIDGE, WAN_DEVICE, LabPlan
from deploy.labkit.processes import run
from deploy.labkit.state import GuestRecord
from shared.messages.network import NetworkMode

CLIENT_DEVICE = "eth0"
# Reverse-path filters off: with translation packets to and from a guest take different ways. No duplicate address
# detection: addresses are there at once. Bridges' frames stay out of the rules for routed packets.
_EVERYWHERE = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.conf.default.accept_redirects": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv6.conf.all.accept_redirects": 0,
    "net.ipv6.conf.default.accept_redirects": 0,
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.all.accept_ra": 0,
    "net.ipv6.conf.default.accept_ra": 0,
    "net.bridge.bridge-nf-call-iptables": 0,
    "net.bridge.bridge-nf-call-ip6tables": 0,
    "net.bridge.bridge-nf-call-arptables": 0,
}
_LAST_METRIC = 4096
"""Of a home's route to its neutral guest: what a node agent or a routing daemon says goes before it."""
_ROUTER = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}


def sysctls(plan: LabPlan, host: str) -> dict[str, int]:
    """The kernel's settings in a host. Pure."""
    return {**_EVERYWHERE, **(_ROUTER if host in plan.routers else {})}


def ensure_sysctls(plan: LabPlan) -> None:
    """Every host's settings; before its devices are made, because a device takes the defaults of that moment."""
    for host in plan.hosts:
        words = [f"{name}={value}" for name, value in sysctls(plan, host).items()]
        # -e: a kernel may be without bridge netfilter, and that is as good.
        run(["ip", "netns", "exec", plan.namespace(host), "sysctl", "-q", "-e", "-w", *words])


def ensure(plan: LabPlan) -> None:
    """Everything but the uplinks themselves, which must be there."""
    ip(plan, HUB, f"addr replace {plan.wan_address6(HUB)}/64 dev {WAN_BRIDGE} nodad")
    for host in plan.wan_hosts:
        ip(
            plan,
            host,
            f"addr replace {plan.wan_address6(host)}/64 dev {WAN_DEVICE} nodad",
            *_default_routes(WAN_DEVICE, plan.wan_address(HUB), plan.wan_address6(HUB)),
        )
    for provider in plan.providers:
        _ensure_provider(plan, provider)
    for gateway in plan.gateways:
        ip(plan, gateway, *_unreachable(str(addressing.NEUTRAL4), str(addressing.NEUTRAL6)))
    _ensure_client(plan)


def welcome(plan: LabPlan, provider: str, station: Station) -> None:
    """Have a neutral address found at the provider where its guest begins; an address of its own is found anyway."""
    if plan.network is not NetworkMode.ANCHOR:
        return
    for address, via in _both(station.address, station.address6, plan, provider):
        ip(plan, provider, f"route replace {address} dev {GUEST_BRIDGE} metric {_LAST_METRIC}")
        for gateway in plan.gateways:
            ip(plan, gateway, f"route replace {address} via {via} dev {WAN_DEVICE}")


def farewell(plan: LabPlan, record: GuestRecord) -> None:
    """Undo `welcome` for a guest that is removed."""
    if plan.network is not NetworkMode.ANCHOR:
        return
    for address, via in _both(record.address, record.address6, plan, record.home):
        with suppress(CommandFailed):  # a guest that could not start has no route
            ip(plan, record.home, f"route del {address} dev {GUEST_BRIDGE} metric {_LAST_METRIC}")
        for gateway in plan.gateways:
            with suppress(CommandFailed):
                ip(plan, gateway, f"route del {address} via {via} dev {WAN_DEVICE}")


def _both(address: str, address6: str, plan: LabPlan, provider: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (f"{address}/32", plan.wan_address(provider)), (f"{address6}/128", plan.wan_address6(provider))


def _ensure_provider(plan: LabPlan, provider: str) -> None:
    here = addressing.site(plan, provider)
    if not has_device(plan, provider, GUEST_BRIDGE):
        ip(
            plan,
            provider,
            f"link add {GUEST_BRIDGE} address {here.gateway_mac} type bridge forward_delay 0 stp_state 0",
            f"addr add {here.gateway4}/{here.network4.prefixlen} dev {GUEST_BRIDGE}",
            f"addr add {here.gateway6}/{here.network6.prefixlen} dev {GUEST_BRIDGE} nodad",
            f"link set {GUEST_BRIDGE} up",
        )
    ip(plan, provider, *_unreachable(str(here.care_of4), str(here.care_of6)))


def _unreachable(prefix4: str, prefix6: str) -> tuple[str, str]:
    """Routes that end packets for a whole prefix that no translation has taken up."""
    return f"route replace blackhole {prefix4}", f"route replace blackhole {prefix6}"


def _ensure_client(plan: LabPlan) -> None:
    here = addressing.client(plan)
    if has_device(plan, CLIENT, CLIENT_DEVICE):
        return
    ip(
        plan,
        CLIENT,
        f"link add {CLIENT_DEVICE} type veth peer name {CLIENT_PORT} netns {plan.namespace(HUB)}",
        f"addr add {here.ip} dev {CLIENT_DEVICE}",
        f"addr add {here.ip6} dev {CLIENT_DEVICE} nodad",
        f"link set {CLIENT_DEVICE} up",
    )
    ip(
        plan,
        HUB,
        f"addr add {here.gateway}/{addressing.CLIENT4.prefixlen} dev {CLIENT_PORT}",
        f"addr add {here.gateway6}/{addressing.CLIENT6.prefixlen} dev {CLIENT_PORT} nodad",
        f"link set {CLIENT_PORT} up",
    )
    ip(plan, CLIENT, *_default_routes(CLIENT_DEVICE, here.gateway, here.gateway6))


def _default_routes(device: str, via4: str, via6: str) -> tuple[str, ...]:
    return tuple(f"route replace default via {via} dev {device}" for via in (via4, via6))
