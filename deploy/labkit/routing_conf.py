"""Configuration of the BGP daemons of a routed lab: BIRD and FRR, both as Debian has them. Pure.

The hub is the transit router: it accepts from a provider that provider's own prefixes and host routes (/32 and /128) of
guests, from the neutral party its prefix, and prefers others over a route that is marked for a graceful shutdown
(RFC 8326). A provider announces its network, its care-of addresses, and the host routes that its node agent writes.
Where those are differs by daemon: BIRD reads the kernel's table 7070 and takes what has protocol 70. FRR 8.4 cannot
read IPv6 routes of another table than the main one, so there the node agent writes them with metric 17. Routes of VMs
that have been ported on have metric 18 until they are withdrawn, and are marked for a graceful shutdown.
"""

from dataclasses import dataclass
from pathlib import Path

from deploy.labkit import addressing
from deploy.labkit.plan import CLIENT_PORT, GUEST_BRIDGE, HUB, LabPlan

BIRD = "bird"
FRR = "frr"
HOLD_S = 9
KEEPALIVE_S = 3
SERVED_PROTOCOL = 70
"""The kernel's number of who made a route, in the routes that a node agent writes to be announced."""


_SERVED_PREFERENCE = 200
"""More than BGP's: another provider may announce the guest, too, and then this one would not."""
GOING_METRIC = 18
"""Of routes to a VM that another provider announces, too."""


@dataclass(frozen=True)
class ServedRoutes:
    """Where the provider's daemon looks for host routes to announce."""

    table: int
    metric: int


SERVED = {BIRD: ServedRoutes(table=7070, metric=17), FRR: ServedRoutes(table=254, metric=17)}


def daemon(plan: LabPlan, host: str) -> str:
    """Which daemon routes there. The first provider, and every other one, has FRR, so that a lab has both."""
    return FRR if host in plan.providers and plan.providers.index(host) % 2 == 0 else BIRD


def bfd_ms(plan: LabPlan, host: str) -> tuple[int, int]:
    """Interval and multiplier of the liveness check between the hub and a host.

    A gateway's death is to cost less than a second; a provider's session should outlive a busy machine's hiccups.
    """
    return (150, 4) if host in plan.gateways else (300, 5)


def bird_conf(plan: LabPlan, host: str) -> str:
    """BIRD's configuration in a host."""
    head = f"log stderr all;\nrouter id {plan.wan_address(host)};\nprotocol device {{ }}\nprotocol bfd {{ }}\n"
    if host == HUB:
        return head + _bird_transit(plan)
    return head + _bird_edge(plan, host)


def _bird_transit(plan: LabPlan) -> str:
    parts = [
        # Only the client's network: the WAN is connected everywhere, and a learned route must not take its place.
        f'protocol direct {{ ipv4; ipv6; interface "{CLIENT_PORT}"; }}\n',
        *(f"protocol kernel {{ {family} {{ export where source = RTS_BGP; }}; }}\n" for family in ("ipv4", "ipv6")),
        "function take() {\n  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;\n  return true;\n}\n",
    ]
    for host in (*plan.providers, *plan.gateways):
        for family, own, longest in (("ipv4", _prefixes4(plan, host), 32), ("ipv6", _prefixes6(plan, host), 128)):
            hosts = f" || net.len = {longest}" if host in plan.providers else ""
            parts.append(
                f"filter from_{_word(host)}_{family} {{\n"
                f"  if net ~ [ {', '.join(own)} ]{hosts} then {{ take(); accept; }}\n  reject;\n}}\n"
            )
            parts.append(_bird_session(plan, HUB, host, family, f"import filter from_{_word(host)}_{family}"))
    return "".join(parts)


def _bird_edge(plan: LabPlan, host: str) -> str:
    told = (
        "filter told {\n"
        f"  if defined(krt_metric) && krt_metric = {GOING_METRIC} then bgp_community.add((65535, 0));\n"
        "  if source ~ [ RTS_STATIC, RTS_INHERIT ] then accept;\n  reject;\n}\n"
    )
    parts = [told]
    for family, own in (("ipv4", _prefixes4(plan, host)), ("ipv6", _prefixes6(plan, host))):
        longest = 32 if family == "ipv4" else 128
        routes = "".join(f"  route {prefix} {_via(plan, prefix, host)};\n" for prefix in own)
        parts.append(f"protocol static own_{family} {{\n  {family};\n{routes}}}\n")
        parts.append(f"protocol kernel main_{family} {{ {family} {{ export where source = RTS_BGP; }}; }}\n")
        if host in plan.providers:
            served = SERVED[BIRD]
            parts.append(
                f"{family} table served_{family};\n"
                f"protocol kernel kernel_served_{family} {{\n  kernel table {served.table};\n  learn;\n  scan time 2;\n"
                f"  {family} {{ table served_{family}; preference {_SERVED_PREFERENCE}; export none;\n"
                f"    import where krt_source = {SERVED_PROTOCOL} && net.len = {longest}; }};\n}}\n"
                f"protocol pipe pipe_{family} {{ table {_master(family)}; peer table served_{family};"
                f" import all; export none; }}\n"
            )
        parts.append(_bird_session(plan, host, HUB, family, "import all"))
    return "".join(parts)


def _bird_session(plan: LabPlan, host: str, peer: str, family: str, imported: str) -> str:
    address = plan.wan_address if family == "ipv4" else plan.wan_address6
    interval, multiplier = bfd_ms(plan, peer if host == HUB else host)
    # The transit router stays in every path: its own address is the next hop.
    exported = "next hop self; export all" if host == HUB else "export filter told"
    return (
        f"protocol bgp {_word(peer)}_{family} {{\n"
        f"  local {address(host)} as {addressing.as_number(plan, host)};\n"
        f"  neighbor {address(peer)} as {addressing.as_number(plan, peer)};\n"
        f"  hold time {HOLD_S}; keepalive time {KEEPALIVE_S}; connect delay time 1; connect retry time 1;\n"
        f"  error wait time 1, 2;\n"
        f"  bfd {{ interval {interval} ms; multiplier {multiplier}; }};\n"
        f"  {family} {{ {imported}; {exported}; }};\n}}\n"
    )


def frr_confs(plan: LabPlan, host: str) -> dict[str, str]:
    """The configuration of each of FRR's programs in a host, in the order of their start."""
    interval, multiplier = bfd_ms(plan, host)
    timing = f"detect-multiplier {multiplier}\n  receive-interval {interval}\n  transmit-interval {interval}"
    return {
        "zebra": "log stdout informational\n",
        "bfdd": f"log stdout informational\nbfd\n profile lab\n  {timing}\n exit\nexit\n",
        "bgpd": _bgpd_conf(plan, host),
    }


def _bgpd_conf(plan: LabPlan, host: str) -> str:
    peers = (plan.wan_address(HUB), plan.wan_address6(HUB))
    lines = [
        "log stdout informational",
        f"router bgp {addressing.as_number(plan, host)}",
        f" bgp router-id {plan.wan_address(host)}",
        " no bgp ebgp-requires-policy",
        " no bgp default ipv4-unicast",
        " no bgp network import-check",
    ]
    for peer in peers:
        lines += [
            f" neighbor {peer} remote-as {addressing.TRANSIT_AS}",
            f" neighbor {peer} timers {KEEPALIVE_S} {HOLD_S}",
            f" neighbor {peer} timers connect 1",
            f" neighbor {peer} advertisement-interval 0",
            f" neighbor {peer} bfd",
            f" neighbor {peer} bfd profile lab",
        ]
    for family, peer, own in zip(
        ("ipv4", "ipv6"), peers, (_prefixes4(plan, host), _prefixes6(plan, host)), strict=True
    ):
        lines += [
            f" address-family {family} unicast",
            *(f"  network {prefix}" for prefix in own),
            f"  redistribute kernel route-map served-{family}",
            f"  neighbor {peer} activate",
            " exit-address-family",
        ]
    lines += ["exit", "ip prefix-list hosts4 permit 0.0.0.0/0 ge 32", "ipv6 prefix-list hosts6 permit ::/0 ge 128"]
    for family, word, names in (("ipv4", "ip", "hosts4"), ("ipv6", "ipv6", "hosts6")):
        lines += [
            f"route-map served-{family} permit 10",
            f" match {word} address prefix-list {names}",
            f" match metric {SERVED[FRR].metric}",
            "exit",
            f"route-map served-{family} permit 20",
            f" match {word} address prefix-list {names}",
            f" match metric {GOING_METRIC}",
            " set community graceful-shutdown additive",
            "exit",
        ]
    return "\n".join(lines) + "\n"


def prefixes(plan: LabPlan, host: str) -> list[str]:
    """What a host announces always: the transit router is ready when it has all of them."""
    return [] if host == HUB else [*_prefixes4(plan, host), *_prefixes6(plan, host)]


def _prefixes4(plan: LabPlan, host: str) -> list[str]:
    if host in plan.gateways:
        return [str(addressing.NEUTRAL4)]
    here = addressing.site(plan, host)
    return [str(here.network4), str(here.care_of4)]


def _prefixes6(plan: LabPlan, host: str) -> list[str]:
    if host in plan.gateways:
        return [str(addressing.NEUTRAL6)]
    here = addressing.site(plan, host)
    return [str(here.network6), str(here.care_of6)]


def _via(plan: LabPlan, prefix: str, host: str) -> str:
    own = host in plan.providers and prefix in {
        str(addressing.site(plan, host).network4),
        str(addressing.site(plan, host).network6),
    }
    return f'via "{GUEST_BRIDGE}"' if own else "blackhole"


def _master(family: str) -> str:
    return "master4" if family == "ipv4" else "master6"


def _word(host: str) -> str:
    return host.replace("-", "_")


def bird_files(folder: Path) -> dict[str, Path]:
    """BIRD's files in a host's folder."""
    return {"conf": folder / "bird.conf", "socket": folder / "bird.ctl"}
