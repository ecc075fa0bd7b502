"""The recipient agent's settings: what is sold, for how much, where it runs. Pure values."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import Overcommit, Quota
from services.recipient_agent.network_map import NetworkMap, NetworkRule
from services.recipient_agent.network_terms import ExtensionTerms
from services.recipient_agent.places import NodePlaces
from services.recipient_agent.prefix_files import PrefixSection
from services.recipient_agent.pricing import InstanceType, Joining
from services.recipient_agent.quote import Promise
from shared.config import Section, ServiceSettings
from shared.messages.catalogue import MAX_TYPES
from shared.parties import Name, Role
from shared.store import StoreSettings

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def _absolute(path: str) -> str:
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts:
        raise ValueError("must be an absolute path without '..'")
    return str(pure)


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
"""A path on a node, which this process never opens."""


class RecipientSection(Section):
    """How long offers and reservations hold, and what counts as a node that answers."""

    node_silent_after_s: Seconds = Field(default=30.0, description="A node that was not heard for so long takes no VM.")
    node_answers_within_s: Seconds = Field(
        default=3.0, description="How long a quote waits for the nodes' word about the VM's CPU."
    )
    report_every_s: Seconds = Field(default=30.0, description="How often capacity is reported to the broker.")
    quote_valid_s: Seconds = Field(default=600.0, description="How long a quote may be taken up.")
    reservation_s: Seconds = Field(
        default=300.0, description="How long a reservation holds before the porting is fixed; then until its end."
    )
    after_deadline_s: Seconds = Field(
        default=3600.0,
        description="How long after the agreed deadline a fixed reservation holds if no node reports its port.",
    )
    keep_records_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        default=90.0, description="Days for which records of ended ports are kept here."
    )


class PlacesSection(Section):
    """Where the host-side parts of a VM lie on a node."""

    image_dir: AbsolutePath = Field(
        default="/var/lib/libvirt/images", description="The nodes' folder for disks; one file per disk and port."
    )
    emulator: AbsolutePath = Field(
        default="/usr/bin/qemu-system-x86_64", description="QEMU's program on the nodes; the donor's path is not taken."
    )
    uefi_loader: AbsolutePath | None = Field(
        default=None,
        description="The UEFI firmware's code on the nodes for VMs without secure boot; unset: chosen by the nodes' "
        "firmware descriptors, so that size and format are those of the VM.",
        examples=["/usr/share/OVMF/OVMF_CODE_4M.fd"],
    )
    nvram_dir: AbsolutePath = Field(
        default="/var/lib/libvirt/qemu/nvram", description="The nodes' folder for UEFI variables."
    )
    boot_dirs: tuple[AbsolutePath, ...] = Field(
        default=("/var/lib/libvirt/boot",),
        description="The nodes' folders of kernels and initrds for VMs that boot directly, at the donor's own paths.",
    )
    console_log_dir: AbsolutePath | None = Field(
        default=None,
        description="The nodes' folder for logs of guests' consoles; unset: none are written.",
        examples=["/var/log/libvirt/guests"],
    )
    bridges: dict[str, str] = Field(
        default_factory=dict,
        description="The donor's bridge names to ours, where they differ.",
    )
    default_bridge: str = Field(
        default="", description="Our bridge for every donor's bridge that is not in bridges; empty: the same name."
    )


class NodeOverride(Section):
    """Where one node differs from ``[places]``."""

    image_dir: AbsolutePath | None = Field(default=None, description="As in [places].", examples=["/srv/vmport/images"])
    emulator: AbsolutePath | None = Field(
        default=None, description="As in [places].", examples=["/usr/libexec/qemu-kvm"]
    )
    bridges: dict[str, str] | None = Field(
        default=None, description="As in [places]; replaces it.", examples=[{"vmbr0": "br-guests"}]
    )


class QuotaSection(Section):
    """The most that may come in, together and per tenant."""

    total: Quota = Field(default=Quota(), description="Of all tenants together.")
    per_tenant: Quota = Field(default=Quota(), description="Of each tenant.")


class RecipientSettings(ServiceSettings):
    """Everything that vmport-recipient reads."""

    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.RECIPIENT})

    store: StoreSettings
    recipient: RecipientSection = Field(default=RecipientSection())
    places: PlacesSection = Field(default=PlacesSection())
    nodes: dict[Name, NodeOverride] = Field(
        default_factory=dict, description="Where single nodes differ from [places], by node name."
    )
    overcommit: Overcommit = Field(default=Overcommit())
    network_map: tuple[NetworkRule, ...] = Field(
        default=(),
        max_length=256,
        description="Where network cards go that bridges cannot say: VLANs, Open vSwitch, networks, port groups. The "
        "first rule that fits a card is taken; a card with VLAN tags goes by a rule only.",
    )
    network: ExtensionTerms = Field(default=ExtensionTerms())
    prefixes: PrefixSection = Field(default=PrefixSection())
    quota: QuotaSection = Field(default=QuotaSection())
    promise: Promise = Field(default=Promise())
    joining: Joining = Field(default=Joining())
    instance_types: Annotated[tuple[InstanceType, ...], Field(min_length=1, max_length=MAX_TYPES)] = Field(
        description="The price list; a VM is billed as the cheapest type that it fits.",
    )

    @model_validator(mode="after")
    def _type_names_differ(self) -> Self:
        names = [each.name for each in self.instance_types]
        if len(set(names)) != len(names):
            raise ValueError("instance_types: each name stands once")
        return self

    @model_validator(mode="after")
    def _each_network_rule_is_reached(self) -> Self:
        seen: dict[tuple[object, ...], int] = {}
        for number, rule in enumerate(self.network_map, start=1):
            first = seen.setdefault(rule.matches, number)
            if first != number:
                raise ValueError(f"network_map: rule {number} is never reached, since rule {first} fits the same cards")
        return self

    def terms(self) -> Terms:
        """The plain values that the rules work with."""
        return Terms(
            overcommit=self.overcommit,
            quota_total=self.quota.total,
            quota_per_tenant=self.quota.per_tenant,
            instance_types=self.instance_types,
            promise=self.promise,
            places=self._places(NodeOverride()),
            places_of={name: self._places(override) for name, override in self.nodes.items()},
            node_silent_after_s=self.recipient.node_silent_after_s,
            extension=self.network,
            joining=self.joining,
        )

    def _places(self, override: NodeOverride) -> NodePlaces:
        places = self.places
        bridges = places.bridges if override.bridges is None else override.bridges
        return NodePlaces(
            image_dir=override.image_dir or places.image_dir,
            emulator=override.emulator or places.emulator,
            uefi_loader=places.uefi_loader,
            nvram_dir=places.nvram_dir,
            boot_dirs=places.boot_dirs,
            console_log_dir=places.console_log_dir,
            bridges=NetworkMap(dict(bridges), places.default_bridge, self.network_map),
        )
