"""The changes of a host's network that a port may need, as values. Pure.

Each step can be made again where it is made already, and undone where it is not. So a step that is in the journal is
right whatever happened to the process that wrote it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.messages.network import IpAddress, IpNetwork, MacAddress

Device = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
ROUTES_TABLE = 7070
"""Kernel table of the routes that a provider's routing daemon announces."""
ROUTES_PROTOCOL = 70
"""By this number (`proto`) a routing daemon knows vmport's routes."""
MAIN_TABLE = 254
METRIC = 19
"""Below those of routing daemons (FRR 20, BIRD 32): who has the guest never sends its packets to where others say that
it is.
"""
ANNOUNCED_METRIC = 17
"""By this metric a daemon that reads the main table only, such as FRR 8, knows which routes it is to announce."""
GOING_METRIC = 18
"""Of routes that are still announced and will be withdrawn soon: a daemon marks them for a graceful shutdown."""


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bridge(_Step):
    """A bridge of one network card's own. `mac` is what the guest takes for its gateway's."""

    kind: Literal["bridge"] = "bridge"
    name: Device
    mac: MacAddress | None = None
    mtu: int = Field(default=1500, ge=576, le=65_535)

    def __str__(self) -> str:
        return f"bridge {self.name}"


class Address(_Step):
    """An address of this host on a device, reachable by nobody but the device's neighbours."""

    kind: Literal["address"] = "address"
    device: Device
    address: IpAddress

    def __str__(self) -> str:
        return f"address {self.address} on {self.device}"


class Route(_Step):
    """The way to a prefix: over a device, or by a router."""

    kind: Literal["route"] = "route"
    destination: IpNetwork
    device: Device | None = None
    via: IpAddress | None = None
    table: int = Field(default=MAIN_TABLE, ge=1, le=2**32 - 1)
    metric: int = Field(default=METRIC, ge=1, le=2**32 - 1)

    def __str__(self) -> str:
        way = f"by {self.via}" if self.via else f"over {self.device}"
        return f"route to {self.destination} {way} in table {self.table}"


class ProxyNeighbour(_Step):
    """This host answers ARP or neighbour solicitations for an address that is not on the device's segment any more."""

    kind: Literal["proxy_neighbour"] = "proxy_neighbour"
    device: Device
    address: IpAddress

    def __str__(self) -> str:
        return f"answers for {self.address} on {self.device}"


class Neighbour(_Step):
    """A neighbour that is known without asking: the guest, on the bridge of its own card."""

    kind: Literal["neighbour"] = "neighbour"
    device: Device
    address: IpAddress
    mac: MacAddress

    def __str__(self) -> str:
        return f"neighbour {self.address} is {self.mac} on {self.device}"


class Setting(_Step):
    """A kernel setting of one device, which goes with the device."""

    kind: Literal["setting"] = "setting"
    device: Device
    family: Literal["ipv4", "ipv6"]
    name: Annotated[str, Field(pattern=r"^[a-z_0-9]{1,40}$")]
    value: Annotated[str, Field(pattern=r"^-?[0-9]{1,10}$")]

    def __str__(self) -> str:
        return f"{self.family} {self.name}={self.value} on {self.device}"


class Queue(_Step):
    """How many frames may wait at a guest's device for the guest; undone, as many as such a device has by itself."""

    kind: Literal["queue"] = "queue"
    device: Device
    frames: int = Field(ge=1, le=65_536)

    def __str__(self) -> str:
        return f"queue of {self.frames} frames at {self.device}"


class NftTable(_Step):
    """A table of nftables with everything in it, as libnftables' JSON without the table itself. One batch makes it."""

    kind: Literal["nft_table"] = "nft_table"
    family: Literal["ip", "ip6", "inet", "bridge", "netdev"]
    name: Annotated[str, Field(pattern=r"^vmport_[a-z0-9_]{1,48}$")]
    objects: tuple[dict[str, Any], ...] = Field(max_length=4096, description="Sets, maps, chains and rules, in order.")

    def __str__(self) -> str:
        return f"nftables table {self.family} {self.name}"


Step = Annotated[
    Bridge | Address | Route | ProxyNeighbour | Neighbour | Setting | Queue | NftTable, Field(discriminator="kind")
]
