"""The ledger's schema: ports and their record, VMs and their epochs, providers, SLA records, lanes, DNS. Pure.

Migrations make these tables (``migrations/``); a test holds both equal. Inbox, outbox and timers are `shared.store`'s.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Uuid,
    text,
)

from shared.store import UtcDateTime, store_metadata

metadata = MetaData(naming_convention=store_metadata.naming_convention)
"""One schema: the ledger's tables stand beside copies of the store's own."""

for _table in store_metadata.sorted_tables:
    _table.to_metadata(metadata)

NAME = String(40)
PARTY = String(200)
_COUNTER = BigInteger().with_variant(Integer, "sqlite")

ports = Table(
    "ports",
    metadata,
    Column("port_id", Uuid, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("vm_uuid", Uuid, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("donor", NAME, nullable=False),
    Column("recipient", NAME),
    Column("phase", String(20), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("dry_run", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("progress", Text),
    Column("progress_at", UtcDateTime),
    Column("percent", Integer, nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Index("ix_ports_tenant_requested_at", "tenant", "requested_at"),
    Index("ix_ports_active", "active"),
    # Rule "a VM has at most one port under way", held by the database whatever the program does.
    Index(
        "uq_ports_vm_under_way",
        "vm_uuid",
        unique=True,
        sqlite_where=text("active = 1 AND dry_run = 0"),
        postgresql_where=text("active AND NOT dry_run"),
    ),
)
"""``state`` is the saga's state as JSON; the other columns repeat what is searched for. ``version`` grows with each
step.
"""

port_events = Table(
    "port_events",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("port_id", ForeignKey("ports.port_id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("sender", PARTY, nullable=False),
    Column("type", String(200), nullable=False),
    Column("phase", String(20), nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("detail", Text, nullable=False),
    Column("message_id", Uuid),
    Column("body", Text),
    Index("ix_port_events_port_id_id", "port_id", "id"),
    sqlite_autoincrement=True,
)
"""The record: every event of every port, in order, with its time and its sender. ``phase`` is the one that it led
to.
"""

vms = Table(
    "vms",
    metadata,
    Column("uuid", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("provider", NAME, nullable=False),
    Column("node", NAME, nullable=False),
    Column("tenant", NAME, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("summary", Text, nullable=False),
    Column("reported_at", UtcDateTime, nullable=False),
    Column("missing_since", UtcDateTime),
    Index("ix_vms_tenant", "tenant"),
    Index("ix_vms_provider", "provider"),
    CheckConstraint("epoch >= 1", name="epoch_positive"),
)
"""Who serves which VM now. ``epoch`` is the newest of ``epochs``."""

epochs = Table(
    "epochs",
    metadata,
    Column("vm_uuid", ForeignKey("vms.uuid"), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("owner", NAME, nullable=False),
    Column("port_id", ForeignKey("ports.port_id")),
    Column("committed_at", UtcDateTime, nullable=False),
)
"""The ownership log; rows are only ever added. The key makes a second owner of one epoch impossible."""

conflicts = Table(
    "conflicts",
    metadata,
    Column("vm_uuid", ForeignKey("vms.uuid"), primary_key=True),
    Column("provider", NAME, primary_key=True),
    Column("first_seen", UtcDateTime, nullable=False),
    Column("last_seen", UtcDateTime, nullable=False),
)
"""Providers that report a VM whose newest epoch is another's. A row goes when the provider no longer reports it."""

providers = Table(
    "providers",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("inventory_at", UtcDateTime),
    Column("capacity_at", UtcDateTime),
    Column("nodes", Integer, nullable=False),
    Column("nodes_healthy", Integer, nullable=False),
    Column("memory_free_bytes", BigInteger, nullable=False),
    Column("disk_free_bytes", BigInteger, nullable=False),
)
"""Providers by their own reports; times are those of the reports."""

nodes = Table(
    "nodes",
    metadata,
    Column("provider", NAME, primary_key=True),
    Column("name", NAME, primary_key=True),
    Column("heard_at", UtcDateTime, nullable=False),
)
"""When each node was last heard by an agent of its provider, by the broker's clock."""

sla_records = Table(
    "sla_records",
    metadata,
    Column("port_id", ForeignKey("ports.port_id"), primary_key=True),
    Column("donor", NAME, nullable=False),
    Column("recipient", NAME, nullable=False),
    Column("promised_total_s", Float, nullable=False),
    Column("measured_total_s", Float, nullable=False),
    Column("promised_downtime_ms", BigInteger, nullable=False),
    Column("measured_downtime_ms", BigInteger, nullable=False),
    Column("measured_outage_ms", BigInteger, nullable=True),
    Column("price_per_month", Numeric(12, 2), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)
"""Promised against measured, one row per completed port."""

credits_given = Table(
    "credits",
    metadata,
    Column("id", _COUNTER, primary_key=True, autoincrement=True),
    Column("port_id", ForeignKey("ports.port_id")),
    Column("vm_uuid", Uuid),
    Column("provider", NAME, nullable=False),
    Column("amount", Numeric(12, 2), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("reason", Text, nullable=False),
    Column("guarantee", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_credits_port_id", "port_id"),
    Index("ix_credits_vm_uuid_at", "vm_uuid", "at"),
    CheckConstraint("amount > 0", name="amount_positive"),
    CheckConstraint("port_id IS NOT NULL OR vm_uuid IS NOT NULL", name="of_port_or_vm"),
    sqlite_autoincrement=True,
)
"""What providers gave back for promises that they did not keep: of one port, or of a VM's service since then."""

lane_jobs = Table(
    "lane_jobs",
    metadata,
    Column("port_id", ForeignKey("ports.port_id"), primary_key=True),
    Column("donor_node", PARTY, nullable=False),
    Column("recipient_node", PARTY, nullable=False),
    Column("wanted", String(10), nullable=False),
    Column("done", Boolean, nullable=False),
    Index("ix_lane_jobs_done", "done"),
)
"""Lanes that are to be declared or removed at the relay; a job outlives the process, so that no lane is left behind."""

extensions = Table(
    "extensions",
    metadata,
    Column("port_id", ForeignKey("ports.port_id"), primary_key=True),
    Column("vm_uuid", Uuid, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("donor_node", PARTY, nullable=False),
    Column("recipient_node", PARTY, nullable=False),
    Column("has_lanes", Boolean, nullable=False),
    Column("state", String(10), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("ends_at", UtcDateTime),
    Column("reason", Text, nullable=False),
    Column("donor_closed", Boolean, nullable=False),
    Column("recipient_closed", Boolean, nullable=False),
    Column("retries", Integer, nullable=False),
    Index("ix_extensions_vm_uuid", "vm_uuid"),
)
"""The donor's help with a VM's addresses after its port has completed: open, ending or ended."""

dns_names = Table(
    "dns_names",
    metadata,
    Column("vm_uuid", ForeignKey("vms.uuid"), primary_key=True),
    Column("zone", String(255), nullable=False),
    Column("label", String(63), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("written", Text, nullable=False),
    Column("ttl_s", Integer, nullable=False),
    # A label belongs to one VM, whatever the program does.
    Index("uq_dns_names_zone_label", "zone", "label", unique=True),
)
"""What the name server has confirmed of each VM: ``epoch``, and ``written``, the text of its mark; empty: nothing."""

catalogues = Table(
    "catalogues",
    metadata,
    Column("provider", NAME, primary_key=True),
    Column("catalogue", Text, nullable=False),
    Column("reported_at", UtcDateTime, nullable=False),
)
"""Each provider's newest price list, as JSON, by its own report."""

plans = Table(
    "plans",
    metadata,
    Column("plan_id", Uuid, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("request", Text, nullable=False),
    Column("result", Text),
    Column("failure", Text),
    Column("terms", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_plans_tenant_created_at", "tenant", "created_at"),
    Index("ix_plans_state", "state"),
)
"""Plans for many VMs. ``request`` and ``result`` are messages as JSON; ``terms`` say how it is carried out."""

plan_moves = Table(
    "plan_moves",
    metadata,
    Column("plan_id", ForeignKey("plans.plan_id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("vm_uuid", Uuid, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("donor", NAME, nullable=False),
    Column("recipient", NAME, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("port_id", Uuid),
    Column("detail", Text, nullable=False),
    Index("ix_plan_moves_port_id", "port_id"),
)
"""Each plan's moves, in their order. ``port_id`` is the newest attempt's; the port may not be in the ledger yet."""
