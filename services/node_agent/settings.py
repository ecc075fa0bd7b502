"""The node agent's settings: ``[node]`` beside the sections that every service has.

Values, and how a command beside the agent reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from services.node_agent.page_codec.hello import Technique
from shared.config import Section, ServiceSettings, read_sources
from shared.config_files import MadeDirectory, ReadFile, UsedDirectory
from shared.messages.costs import GB, EnergyModel
from shared.messages.lanes import DirectAddress
from shared.messages.network import BridgeName, IpNetwork, Label, NetworkMode
from shared.parties import Name, Role

Seconds = Annotated[float, Field(gt=0, le=86_400)]
ListenAddress = Annotated[str, Field(max_length=270, pattern=r"^[^\s:]*(\[[0-9A-Fa-f:.]+\])?:[0-9]{1,5}$")]
WindowBytes = Annotated[int, Field(ge=256 * 1024, le=64 * 1024 * 1024)]


class NodeSection(Section):
    """This host. Its name and provider come from the bus URL's user, ``node.PROVIDER.NAME``."""

    role: Literal["host", "gateway"] = Field(
        default="host",
        description="host: runs VMs. gateway: runs none, and sends packets for addresses of a neutral prefix to the "
        "provider that serves the VM (network mode anchor).",
    )
    libvirt_uri: str = Field(default="qemu:///system", description="How this agent reaches the host's libvirtd.")
    libvirt_socket: Path = Field(
        default=Path("/run/libvirt/libvirt-sock"),
        description="libvirtd's own socket, into which the RPC gate lets a donor's eight procedures pass.",
    )
    qemu_pid_dir: Path = Field(
        default=Path("/run/libvirt/qemu"),
        description="Where libvirt keeps QEMU's pid files; the fence at the switchover finds its process there.",
    )
    run_dir: Path = Field(
        default=Path("/run/vmport"),
        description="Sockets of active ports. The same path on every host of every provider.",
    )
    state_dir: MadeDirectory = Field(
        default=Path("/var/lib/vmport/node"), description="The journal, and messages that the bus has not accepted yet."
    )
    image_dir: UsedDirectory = Field(
        default=Path("/var/lib/libvirt/images"),
        description="Where disks of arriving VMs are made, and nowhere else; its file system gives the disk capacity.",
    )
    start_hook: Path = Field(
        default=Path("/etc/libvirt/hooks/qemu.d/vmport"),
        description="libvirt's hook that refuses to start a VM which has left this host. `vmport-node install-hook` "
        "writes it, this agent only looks whether it is there.",
    )
    require_hook: bool = Field(
        default=False,
        description="Take part in no port while that hook is not in place. Without this it is a warning in the log, "
        "and a metric.",
    )
    bridges: tuple[str, ...] = Field(default=(), description="Bridges that guests may use.", examples=[["vmbr0"]])
    accelerators: tuple[Literal["kvm", "qemu"], ...] = Field(
        default=(),
        description="Narrows what libvirt claims; empty: all. A /dev/kvm that cannot run a guest is claimed, too.",
        examples=[["kvm"]],
    )
    qemu_user: str | None = Field(
        default=None,
        description="The user that QEMU runs as, where it is not this agent's; it is given the sockets of a port.",
        examples=["libvirt-qemu"],
    )
    heartbeat_s: Seconds = Field(
        default=5.0, description="How often inventory and health are reported to this provider's agents."
    )
    progress_s: Annotated[float, Field(ge=0.1, le=60)] = Field(
        default=1.0, description="How often a transfer's progress is measured and reported."
    )
    peer_ready_within_s: Seconds = Field(
        default=180.0,
        description="How long the other node agent may take to answer on the lanes; longer than an outage of minutes.",
    )
    lane_silence_s: Annotated[float, Field(ge=35, le=540)] = Field(
        default=300.0, description="A lane has failed when it was silent for this long; it survives shorter outages."
    )
    caps_file: Path | None = Field(
        default=None,
        description="Bandwidth caps per provider and per port, TOML; read again when it changes, also while ports run.",
        examples=["/etc/vmport/caps.toml"],
    )
    seed_bandwidth_bytes_per_s: Annotated[int, Field(ge=64 * 1024, le=2**40)] = Field(
        default=4 * 1024 * 1024,
        description="Rate limit of seeding before a port's window, where the tenant asks for it and gives no rate.",
    )
    memory_window_bytes: WindowBytes = Field(
        default=4 * 1024 * 1024,
        description="Most memory-stream bytes in flight; less where the measured bandwidth times delay is less.",
    )
    disk_window_bytes: WindowBytes = Field(
        default=8 * 1024 * 1024, description="Most disk-stream bytes in flight; less where the link needs less."
    )
    base_image_dir: Path = Field(
        default=Path("/var/lib/libvirt/base-images"),
        description="Base images that this provider publishes. Contents that an arriving VM shares with them are not "
        "sent, and its disks may be overlays on them. Put nothing here that a tenant may not know of, and do not "
        "change or remove an image while a disk is an overlay on it.",
    )
    overlays: bool = Field(
        default=True,
        description="Let disks of arriving VMs be overlays on these images, where their tenants allow it. Without it "
        "no disk comes to lie on an image, so that images may go at any time.",
    )
    keep_contents_s: Annotated[float, Field(ge=0, le=31 * 86_400)] = Field(
        default=86_400.0,
        description="How long contents of a port are kept for the next port of the same VM; then they are erased.",
    )
    keep_contents_mib: Annotated[int, Field(ge=0, le=2**30)] = Field(
        default=16_384, description="Most that is kept for next ports, all VMs together; the oldest is erased first."
    )
    without: tuple[Technique, ...] = Field(
        default=(),
        description="Techniques of the page codec that are switched off at this node, to measure what each one saves.",
        examples=[["delta"]],
    )
    auto_converge: bool = Field(
        default=True, description="Let QEMU slow down a guest that writes memory faster than it can be sent."
    )
    outage_probe: bool = Field(
        default=True,
        description="Measure a leaving VM's outage: ARP on its bridge around the switchover. Needs CAP_NET_RAW.",
    )
    outage_probe_interval_s: Annotated[float, Field(ge=0.005, le=1)] = Field(
        default=0.02, description="Interval of the probes; the outage is known to within this."
    )
    abort_within_s: Seconds = Field(
        default=5.0,
        description="How long libvirt may take to end an aborted migration; then its connection is closed.",
    )

    @property
    def given_away_dir(self) -> Path:
        """Files about VMs that this host gave away; libvirt's hook reads them."""
        return self.state_dir / "given-away"


class TlsSection(Section):
    """This node's identity on the lanes. Without files it makes a key and a certificate at its first start."""

    certificate_file: ReadFile | None = Field(
        default=None,
        description="This node's certificate, PEM, issued by the provider's own authority.",
        examples=["/etc/vmport/node.crt"],
    )
    key_file: ReadFile | None = Field(
        default=None, description="Its private key, PEM, without a password.", examples=["/etc/vmport/node.key"]
    )
    authority_file: ReadFile | None = Field(
        default=None,
        description="The authority that issued it, PEM. Agreements carry it to the other provider.",
        examples=["/etc/vmport/authority.crt"],
    )
    known_authorities: dict[Name, ReadFile] = Field(
        default={},
        description="Authorities of other providers that are known by other means, by provider: an agreement with a "
        "different one for such a provider is refused.",
    )

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        given = [file is not None for file in (self.certificate_file, self.key_file, self.authority_file)]
        if any(given) and not all(given):
            raise ValueError("give certificate_file, key_file and authority_file, or none of them")
        return self


class DirectSection(Section):
    """Lanes by TCP between the two nodes, without the relay. Tried first where the other node can be reached so."""

    listen: ListenAddress | None = Field(
        default=None,
        description="HOST:PORT where this node accepts direct lanes; unset: it accepts none.",
        examples=["0.0.0.0:7070"],
    )
    advertise: tuple[DirectAddress, ...] = Field(
        default=(),
        description="HOST:PORT under which other nodes reach it; each agreement carries it.",
        examples=[["node1.alpha.example:7070"]],
    )
    connect: bool = Field(default=True, description="Connect directly to other nodes that offer an address.")
    connections: Annotated[int, Field(ge=1, le=16)] = Field(
        default=1, description="Parallel TCP connections per bulk lane, for links that one cannot fill."
    )
    connect_within_s: Annotated[float, Field(gt=0, le=10)] = Field(
        default=1.0, description="A lane starts over the relay if there is no direct route by then."
    )
    retry_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=15.0, description="How often a lane on the relay tries the direct route again."
    )


class NetworkSection(Section):
    """How this node can keep the addresses of VMs that move, and what is known of them."""

    modes: tuple[NetworkMode, ...] = Field(
        default=(NetworkMode.JOINED,),
        min_length=1,
        max_length=len(NetworkMode),
        description="Ways that this node can take part in: joined, extend, translate, anchor, announce.",
        examples=[["joined", "extend", "announce"]],
    )
    segments: dict[BridgeName, Label] = Field(
        default_factory=dict,
        max_length=64,
        description="Bridges, and a name for the layer-2 network that each is on. The same name at two providers says "
        "that their bridges are joined.",
        examples=[{"vmbr0": "alpha-tenants"}],
    )
    care_of: tuple[IpNetwork, ...] = Field(
        default=(),
        max_length=16,
        description="Prefixes that are routed to this node and that nothing else uses: where others send packets for "
        "VMs that came with their own addresses (translate, anchor). IPv4 and IPv6.",
        examples=[["198.51.100.128/26", "2001:db8:1::/112"]],
    )
    addresses_file: Path | None = Field(
        default=None,
        description="Addresses of VMs, by the MACs of their cards, TOML; read again when it changes. A file that is "
        "wrong changes nothing, and is named wherever a VM is described.",
        examples=["/etc/vmport/addresses.toml"],
    )
    mtu: Annotated[int, Field(ge=576, le=65_535)] = Field(
        default=1500, description="Of guests' networks here, where addresses_file names no other."
    )

    withdraw_after_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=30.0,
        description="How long this node goes on announcing a VM that another provider announces now, marked so that "
        "others take the other way; in seconds, after its help with the VM's packets has ended.",
        examples=[120.0],
    )
    connections_most: Annotated[int, Field(ge=0, le=65_536)] = Field(
        default=65_536,
        description="How many tracked connections of a VM this node takes over from its donor: only those of the VM's "
        "own addresses, which its firewall rules would let in or out. 0: none.",
        examples=[10000],
    )

    moved_listen: ListenAddress | None = Field(
        default=None,
        description="HOST:PORT where this node answers by HTTP who serves a VM that has left it (GET /moved/ADDRESS); "
        "whoever reaches it may ask. Unset: it answers nobody.",
        examples=["192.0.2.254:8070"],
    )
    moved_for_s: Annotated[float, Field(gt=0, le=10**9)] = Field(
        default=2_592_000.0, description="For how long it answers so, in seconds from the port on."
    )

    @model_validator(mode="after")
    def _modes_have_what_they_need(self) -> Self:
        for mode in (NetworkMode.TRANSLATE, NetworkMode.ANCHOR):
            if mode in self.modes and not self.care_of:
                raise ValueError(f"modes has {mode}, which needs care_of")
        return self


class EnergySection(Section):
    """What this node says of a port's energy where it was not measured: `vmport-node calibrate-energy` measures it."""

    stated: bool = Field(default=True, description="State an estimate, marked as one. false: nothing is stated.")
    joules_per_gb: Annotated[float, Field(ge=0, le=10**9)] = Field(
        default=512.0, description="Energy of a GB on the wire; the default is a published figure, of another host."
    )
    watts: Annotated[float, Field(ge=0, le=10**6)] = Field(
        default=0.0, description="Power for as long as a port is under way, above that of an idle host."
    )

    def estimate(self) -> EnergyModel | None:
        """The model that stands in for a measured one."""
        if not self.stated:
            return None
        return EnergyModel(joules_per_byte=self.joules_per_gb / GB, joules_per_s=self.watts)


class NodeSettings(ServiceSettings):
    """Everything that vmport-node reads."""

    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.NODE})

    node: NodeSection = Field(default=NodeSection())
    tls: TlsSection = Field(default=TlsSection())
    direct: DirectSection = Field(default=DirectSection())
    network: NetworkSection = Field(default=NetworkSection())
    energy: EnergySection = Field(default=EnergySection())


def node_section(config: Path | None, state_dir: Path | None) -> NodeSection:
    """For a command beside the agent: of the settings file; with a state directory only that is needed.

    Raises `ConfigError`.
    """
    if state_dir is not None:
        return NodeSection(state_dir=state_dir)
    return read_sources(NodeSettings, config, program="vmport-node").settings().node
