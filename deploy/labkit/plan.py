"""Names, addresses and paths of a lab, computed from its name and its providers. Pure: touches nothing.

The WAN is 10.77.0.0/24 (hub .1, tenant .2, providers from .11); the guests' network, one bridge per provider joined by
vxlan, is 10.88.0.0/24 and fd00:88::/64 (client .2, guests from .10). In every other kind of lab than `joined` each
provider has an internal network of its own (`addressing.py`) and the hub routes between them. Labs do not meet, so
every lab uses the same addresses.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from shared.messages.network import NetworkMode

HUB = "hub"
TENANT = "tenant"
CLIENT = "client"
GATEWAYS = ("gw-1", "gw-2")
"""Hosts of a neutral party, which routes a prefix that is no provider's. Only a lab of mode `anchor` has them."""
TENANT_NAME = "acme"
DEFAULT_PROVIDERS = ("alpha", "beta")
WAN_DEVICE = "wan0"
WAN_BRIDGE = "wan"
CLIENT_PORT = "to-client"
"""The hub's device towards the client of a routed lab."""
# Room for vxlan's 50 bytes, so that guests keep a full 1500.
WAN_MTU_JOINED = 1550
WAN_MTU_ROUTED = 1500
GUEST_BRIDGE = "vmbr0"
GUEST_SWITCH = "vmovs0"
FIRST_VLAN = 42
GUEST_PREFIX = "10.88.0"
GUEST_FIRST = 10
AMQP_PORT = 5672
# Each process has its own address space of ports; the metrics port is fixed per role, so that a scraper can be told.
HEALTH_PORTS = {"broker": 9600, "donor": 9601, "recipient": 9602, "node": 9603, "gateway": 9604}

_LAB_NAME = re.compile(r"[a-z0-9]{1,20}")
_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,10}")
_RESERVED = frozenset({HUB, TENANT, CLIENT, *GATEWAYS})


@dataclass(frozen=True)
class LabPlan:
    """Everything about a lab that follows from its name and the names of its providers.

    Raises `ValueError` for a name that could not be told apart from another lab's or would not fit an interface name.
    """

    name: str
    providers: tuple[str, ...] = DEFAULT_PROVIDERS
    network: NetworkMode = NetworkMode.JOINED
    """How guests keep their addresses in this lab, which decides what its networks look like."""

    def __post_init__(self) -> None:
        if not _LAB_NAME.fullmatch(self.name):
            raise ValueError(f"lab name {self.name!r}: use 1 to 20 of a-z and 0-9")
        for provider in self.providers:
            if provider in _RESERVED or not _PROVIDER_NAME.fullmatch(provider):
                raise ValueError(
                    f"provider name {provider!r}: use 1 to 11 of a-z, 0-9 and -, and none of {sorted(_RESERVED)}"
                )
        if len(set(self.providers)) != len(self.providers) or len(self.providers) < 2:
            raise ValueError(f"providers {self.providers!r}: name two or more different ones")

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host, in the order in which they are made."""
        return (HUB, TENANT, *self.providers, *self.gateways, CLIENT)

    @property
    def routed(self) -> bool:
        """Whether providers have networks of their own, with routers between them, rather than one joined network."""
        return self.network is not NetworkMode.JOINED

    @property
    def gateways(self) -> tuple[str, ...]:
        """The hosts of the neutral party, where the lab has one."""
        return GATEWAYS if self.network is NetworkMode.ANCHOR else ()

    @property
    def routers(self) -> tuple[str, ...]:
        """The hosts that speak BGP, the transit router first; none in a joined lab."""
        return (HUB, *self.providers, *self.gateways) if self.routed else ()

    @property
    def wan_hosts(self) -> tuple[str, ...]:
        """The hosts with an uplink to the hub."""
        return (TENANT, *self.providers, *self.gateways)

    @property
    def wan_mtu(self) -> int:
        """What an uplink carries in one packet."""
        return WAN_MTU_ROUTED if self.routed else WAN_MTU_JOINED

    def namespace(self, host: str) -> str:
        """Name of the host's network namespace, as `ip netns` shows it."""
        return f"{self.namespace_prefix}{host}"

    @property
    def namespace_prefix(self) -> str:
        """What the names of this lab's namespaces, and of no other lab's, begin with."""
        return f"vmport-{self.name}-"

    def namespace_path(self, host: str) -> Path:
        """Where the host's network namespace can be opened."""
        return Path("/run/netns") / self.namespace(host)

    def wan_address(self, host: str) -> str:
        """IPv4 address of a host on the WAN."""
        if host == HUB:
            return "10.77.0.1"
        if host == TENANT:
            return "10.77.0.2"
        if host in GATEWAYS:
            return f"10.77.0.{3 + GATEWAYS.index(host)}"
        return f"10.77.0.{11 + self.providers.index(host)}"

    def wan_address6(self, host: str) -> str:
        """IPv6 address of a host on the WAN of a routed lab: the last number is written as in IPv4."""
        return f"fd00:77::{self.wan_address(host).rpartition('.')[2]}"

    def hub_port(self, host: str) -> str:
        """Name of the hub's device at the far end of a host's uplink."""
        return f"to-{host}"

    def node(self, provider: str) -> str:
        """Name of the provider's only node."""
        return f"{provider}-1"

    def vlan(self, provider: str) -> int:
        """The VLAN that is the guests' network on the provider's Open vSwitch bridge; each provider has its own."""
        return FIRST_VLAN + 100 * self.providers.index(provider)

    @property
    def state_dir(self) -> Path:
        """What the lab keeps: state file, disks, databases, configuration, logs."""
        return Path("/var/lib/vmport-lab") / self.name

    @property
    def run_dir(self) -> Path:
        """The hosts' /run: short paths, because a unix socket's path may have 107 bytes."""
        return Path("/run/vmport-lab") / self.name

    @property
    def lock_file(self) -> Path:
        """Held by whoever changes the lab."""
        return self.run_dir.parent / f".{self.name}.lock"

    @property
    def cache_dir(self) -> Path:
        """Guest images and kernels, shared by all labs and visible at the same path in every host."""
        return Path("/var/cache/vmport-lab")

    @property
    def state_file(self) -> Path:
        """The record of what the lab made."""
        return self.state_dir / "state.json"

    @property
    def log_dir(self) -> Path:
        """One log per process."""
        return self.state_dir / "log"

    @property
    def config_dir(self) -> Path:
        """One TOML file per process."""
        return self.state_dir / "config"

    @property
    def data_dir(self) -> Path:
        """Databases and state files of the services."""
        return self.state_dir / "data"

    def node_state_dir(self, provider: str) -> Path:
        """What the provider's node agent keeps; visible at the same path in its host."""
        return self.data_dir / f"node-{provider}"

    def host_dir(self, provider: str) -> Path:
        """What stands for the provider host's /etc, /var/lib and so on."""
        return self.state_dir / "hosts" / provider

    def host_run_dir(self, provider: str) -> Path:
        """What is /run in the provider's host."""
        return self.run_dir / provider

    def binds(self, provider: str) -> dict[Path, Path]:
        """Bind mounts of a provider's host: own folder -> the path that it covers."""
        host = self.host_dir(provider)
        return {
            host / "etc-libvirt": Path("/etc/libvirt"),
            host / "var-lib-libvirt": Path("/var/lib/libvirt"),
            host / "var-log-libvirt": Path("/var/log/libvirt"),
            host / "var-cache-libvirt": Path("/var/cache/libvirt"),
            host / "var-log-swtpm": Path("/var/log/swtpm"),
            host / "var-lib-swtpm-localca": Path("/var/lib/swtpm-localca"),
            self.host_run_dir(provider): Path("/run"),
        }

    def libvirt_socket(self, provider: str) -> Path:
        """The provider's libvirtd, as seen from outside its host."""
        return self.host_run_dir(provider) / "libvirt" / "libvirt-sock"

    def libvirt_uri(self, provider: str) -> str:
        """A URI with which virsh reaches the provider's libvirtd from outside its host."""
        return f"qemu+unix:///system?socket={self.libvirt_socket(provider)}"
