"""The broker's settings: one TOML file, overlaid by ``VMPORT_…`` environment."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from services.broker.dns import BadDnsKey, NameServer, UpdateKey
from services.broker.money_settings import BrokerSection
from services.broker.rules import Limits, regime_files
from services.broker.rules.book import RuleBook
from services.broker.saga import Anchor, Timing
from shared.config import Section, ServiceSettings
from shared.config_files import Finding, ReadFile, UsedDirectory
from shared.messages.network import IpNetwork
from shared.parties import NAME_PATTERN, Name, Role, node
from shared.rules.facts import Region
from shared.rules.regime import RegimeError
from shared.store import StoreSettings


def _address_or_empty(text: str) -> str:
    return str(ipaddress.ip_address(text)) if text else text


HostAddress = Annotated[str, AfterValidator(_address_or_empty), Field(max_length=45)]
ZoneName = Annotated[
    str,
    Field(pattern=r"^(?:(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63})?$", max_length=190),
]
"""A name in DNS, without a dot at its end. Short enough for a label of a VM and its mark below it."""
GatewayName = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}/{NAME_PATTERN}$")]
Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]


class TimingSettings(Section):
    """How long each phase of a port may take. Before the switchover a phase that takes longer ends the port safely."""

    approval_s: Seconds = Field(default=30, description="The donor's answer to the request.")
    quoting_s: Seconds = Field(default=15, description="All recipients' offers; a recipient that is late has declined.")
    reserving_s: Seconds = Field(
        default=30, description="The chosen recipient's reservation; then the next best is asked."
    )
    preparing_s: Seconds = Field(
        default=300, description="Lanes, disks and sockets at the recipient; longer than an outage of minutes."
    )
    starting_s: Seconds = Field(
        default=300, description="The start of the migration at the donor; longer than an outage of minutes."
    )
    transfer_s: Seconds = Field(default=4 * 3600, description="The whole move, when the tenant sets no deadline.")
    silence_s: Seconds = Field(
        default=420,
        description="A transfer whose node reports no progress for so long is aborted; lanes survive shorter outages.",
    )
    switching_s: Seconds = Field(
        default=60, description="From the grant until the VM is reported to run; then the recipient is asked."
    )
    resolving_s: Seconds = Field(
        default=600, description="Between two alarms for an operator while it is unknown whether the VM arrived."
    )
    finishing_s: Seconds = Field(
        default=120, description="Between two alarms for an operator while the completion is late."
    )
    aborting_s: Seconds = Field(
        default=120, description="Both nodes' confirmation of an abort; then the port ends without it."
    )
    seed_ahead_s: Annotated[float, Field(ge=0, le=30 * 24 * 3600)] = Field(
        default=6 * 3600,
        description="How long before its window a port with seeding starts to send contents.",
    )
    clock_difference_s: Seconds = Field(
        default=60,
        description="By how much a node's clock may be ahead; a switchover that is requested even earlier is denied.",
    )
    first_retry_s: Seconds = Field(default=2, description="First pause before a question is repeated; it doubles.")
    longest_retry_s: Seconds = Field(default=60, description="Longest pause before a question is repeated.")

    def timing(self) -> Timing:
        """For the saga."""
        return Timing(**{name.removesuffix("_s"): timedelta(seconds=value) for name, value in self})


class LimitSettings(Section):
    """What the broker's own rules allow."""

    max_active_ports_per_tenant: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=50, description="Ports of one tenant that may be under way at once, dry runs included."
    )
    farthest_window_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        default=90, description="How far in the future a window may start."
    )
    shortest_deadline_s: Seconds = Field(default=30, description="Least time between start and deadline.")
    window_tolerance_s: Seconds = Field(
        default=60, description="A window that started no longer ago than this means: now."
    )
    provider_silent_s: Seconds = Field(
        default=120, description='A provider that sent no report for so long is not asked when the recipient is "best".'
    )

    def limits(self) -> Limits:
        """For the rules."""
        return Limits(
            max_active_ports_per_tenant=self.max_active_ports_per_tenant,
            farthest_window=timedelta(days=self.farthest_window_days),
            shortest_deadline=timedelta(seconds=self.shortest_deadline_s),
            window_tolerance=timedelta(seconds=self.window_tolerance_s),
        )


class AnchorSettings(Section):
    """Addresses that belong to no provider: a neutral prefix, and the gateways that know who serves which of them."""

    prefixes: tuple[IpNetwork, ...] = Field(
        default=(),
        max_length=16,
        description="Neutral prefixes. A VM whose addresses are in them may be ported by anchor.",
        examples=[["203.0.113.0/24", "2001:db8:a::/48"]],
    )
    gateways: tuple[GatewayName, ...] = Field(
        default=(),
        max_length=16,
        description="Nodes that announce them, PROVIDER/NODE; at least two, so that one may fail. All are told in the "
        "instant of a switchover.",
        examples=[["exchange/gw-1", "exchange/gw-2"]],
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.prefixes) != bool(self.gateways):
            raise ValueError("give prefixes and gateways, or none of them")
        return self

    def anchor(self) -> Anchor:
        """For the saga."""
        parties = (node(*name.split("/")) for name in self.gateways)
        return Anchor(prefixes=self.prefixes, gateways=tuple(map(str, parties)))


class DnsSettings(Section):
    """Where DNS is told who serves each VM that was ported. Without a server it is told nothing."""

    server: HostAddress = Field(
        default="", description="Address of the zone's primary name server, IPv4 or IPv6.", examples=["192.0.2.53"]
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(default=53, description="Its TCP port.")
    zone: ZoneName = Field(
        default="",
        description="A zone for VMs alone: labels in it are tenants' names for their VMs.",
        examples=["vm.example"],
    )
    key_name: ZoneName = Field(default="vmport", description="Name of the TSIG key that may update the zone.")
    key_file: ReadFile | None = Field(
        default=None, description="A file with the key's secret in base64.", examples=["/etc/vmport/dns.key"]
    )
    algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = Field(
        default="hmac-sha256", description="Of the key."
    )
    ttl_s: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=10, description="How long resolvers may keep an answer, in seconds."
    )
    timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(default=5.0, description="How long one update may take.")
    forget_after_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        default=1.0, description="Records of a VM go when its provider has not reported it for so long."
    )

    @property
    def is_on(self) -> bool:
        """Whether DNS is told anything."""
        return bool(self.server)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = (bool(self.server), bool(self.zone), self.key_file is not None)
        if any(given) and not all(given):
            raise ValueError("give server, zone and key_file, or none of them")
        return self

    def problems(self) -> list[Finding]:
        """The files, and whether the key can be used."""
        found = super().problems()
        if not found and self.is_on:
            try:
                self.name_server()
            except BadDnsKey as error:
                found.append(Finding(("key_file",), str(error)))
        return found

    def name_server(self) -> NameServer:
        """The zone's primary. Reads the key; raises `BadDnsKey`."""
        try:
            secret = self.key_file.read_text("utf-8") if self.key_file is not None else ""
        except (OSError, UnicodeDecodeError) as error:
            raise BadDnsKey(f"{self.key_file} cannot be read: {error}") from error
        key = UpdateKey(self.key_name, self.algorithm, secret)
        return NameServer(self.server, self.port, self.zone, key, ttl_s=self.ttl_s, timeout_s=self.timeout_s)


class RuleSettings(Section):
    """Which laws bind a port: by the regions of its tenant, its donor and its recipient."""

    regimes_dir: UsedDirectory | None = Field(
        default=None,
        description="A folder with regimes of your own (*.toml), beside those that ship. "
        "'vmport-broker check-rules FILE' checks one.",
        examples=["/etc/vmport/regimes"],
    )
    tenants: dict[Name, Region] = Field(
        default={},
        description="Regions of tenants, such as EU or IN-DL. Who is not named has the region default.",
        examples=[{"acme": "EU"}],
    )
    providers: dict[Name, Region] = Field(
        default={},
        description="Regions of providers.",
        examples=[{"alpha": "EU", "beta": "UK"}],
    )

    def problems(self) -> list[Finding]:
        """The folder, and each regime in it."""
        found = super().problems()
        if not found:
            try:
                self.book()
            except RegimeError as error:
                found.append(Finding(("regimes_dir",), str(error)))
        return found

    def book(self) -> RuleBook:
        """The regimes that ship and those of the folder. Reads files; raises `RegimeError`."""
        return RuleBook(regime_files.load(self.regimes_dir), self.tenants, self.providers)


class BrokerSettings(ServiceSettings):
    """The broker."""

    ROLES: ClassVar = frozenset({Role.BROKER})

    store: StoreSettings = Field(description="The ledger. Several brokers may share one PostgreSQL.")
    timing: TimingSettings = Field(default=TimingSettings(), description="Deadlines.")
    limits: LimitSettings = Field(default=LimitSettings(), description="Rules.")
    anchor: AnchorSettings = Field(default=AnchorSettings())
    dns: DnsSettings = Field(default=DnsSettings())
    broker: BrokerSection = Field(default=BrokerSection())
    rules: RuleSettings = Field(default=RuleSettings())
