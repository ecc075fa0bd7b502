"""The ledger as of release 0.1.0.

Revision 0001; revises nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store import UtcDateTime

revision = "0001"
down_revision = None

NEWEST_FIRST = (
    "sla_records",
    "port_events",
    "lane_jobs",
    "epochs",
    "conflicts",
    "vms",
    "timers",
    "providers",
    "ports",
    "outbox",
    "inbox",
)


def upgrade() -> None:
    """Make all tables."""
    _store()
    _ports()
    _port_records()
    _registry()


def downgrade() -> None:
    """Remove the whole ledger."""
    for table in NEWEST_FIRST:
        op.drop_table(table)


def _store() -> None:
    """Inbox, outbox and timers."""
    op.create_table(
        "inbox",
        sa.Column("sender", sa.String(length=200), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sender", "message_id", name=op.f("pk_inbox")),
    )
    op.create_index(op.f("ix_inbox_received_at"), "inbox", ["received_at"], unique=False)
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("recipient", sa.String(length=200), nullable=False),
        sa.Column("type", sa.String(length=200), nullable=False),
        sa.Column("envelope", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("sent_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_outbox_pending",
        "outbox",
        ["recipient", "id"],
        unique=False,
        sqlite_where=sa.text("sent_at IS NULL"),
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    op.create_index("ix_outbox_sent_at", "outbox", ["sent_at"], unique=False)
    op.create_table(
        "timers",
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_timers")),
    )
    op.create_index(op.f("ix_timers_due_at"), "timers", ["due_at"], unique=False)


def _ports() -> None:
    """Ports."""
    op.create_table(
        "ports",
        sa.Column("port_id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.String(length=40), nullable=False),
        sa.Column("vm_uuid", sa.Uuid(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("donor", sa.String(length=40), nullable=False),
        sa.Column("recipient", sa.String(length=40), nullable=True),
        sa.Column("phase", sa.String(length=20), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("progress_at", UtcDateTime(), nullable=True),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("requested_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("port_id", name=op.f("pk_ports")),
    )
    op.create_index("ix_ports_active", "ports", ["active"], unique=False)
    op.create_index("ix_ports_tenant_requested_at", "ports", ["tenant", "requested_at"], unique=False)
    op.create_index(
        "uq_ports_vm_under_way",
        "ports",
        ["vm_uuid"],
        unique=True,
        sqlite_where=sa.text("active = 1 AND dry_run = 0"),
        postgresql_where=sa.text("active AND NOT dry_run"),
    )


def _port_records() -> None:
    """What belongs to a port: its record, its lanes, its SLA record."""
    op.create_table(
        "lane_jobs",
        sa.Column("port_id", sa.Uuid(), nullable=False),
        sa.Column("donor_node", sa.String(length=200), nullable=False),
        sa.Column("recipient_node", sa.String(length=200), nullable=False),
        sa.Column("wanted", sa.String(length=10), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_lane_jobs_port_id_ports")),
        sa.PrimaryKeyConstraint("port_id", name=op.f("pk_lane_jobs")),
    )
    op.create_index("ix_lane_jobs_done", "lane_jobs", ["done"], unique=False)
    op.create_table(
        "port_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("port_id", sa.Uuid(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("sender", sa.String(length=200), nullable=False),
        sa.Column("type", sa.String(length=200), nullable=False),
        sa.Column("phase", sa.String(length=20), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_port_events_port_id_ports")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_port_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_port_events_port_id_id", "port_events", ["port_id", "id"], unique=False)
    op.create_table(
        "sla_records",
        sa.Column("port_id", sa.Uuid(), nullable=False),
        sa.Column("donor", sa.String(length=40), nullable=False),
        sa.Column("recipient", sa.String(length=40), nullable=False),
        sa.Column("promised_total_s", sa.Float(), nullable=False),
        sa.Column("measured_total_s", sa.Float(), nullable=False),
        sa.Column("promised_downtime_ms", sa.BigInteger(), nullable=False),
        sa.Column("measured_downtime_ms", sa.BigInteger(), nullable=False),
        sa.Column("price_per_month", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.Column("recorded_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_sla_records_port_id_ports")),
        sa.PrimaryKeyConstraint("port_id", name=op.f("pk_sla_records")),
    )


def _registry() -> None:
    """Providers, VMs and the ownership log."""
    op.create_table(
        "providers",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("inventory_at", UtcDateTime(), nullable=True),
        sa.Column("capacity_at", UtcDateTime(), nullable=True),
        sa.Column("nodes", sa.Integer(), nullable=False),
        sa.Column("nodes_healthy", sa.Integer(), nullable=False),
        sa.Column("memory_free_bytes", sa.BigInteger(), nullable=False),
        sa.Column("disk_free_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_providers")),
    )
    op.create_table(
        "vms",
        sa.Column("uuid", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("node", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("reported_at", UtcDateTime(), nullable=False),
        sa.Column("missing_since", UtcDateTime(), nullable=True),
        sa.CheckConstraint("epoch >= 1", name=op.f("ck_vms_epoch_positive")),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_vms")),
    )
    op.create_index("ix_vms_provider", "vms", ["provider"], unique=False)
    op.create_index("ix_vms_tenant", "vms", ["tenant"], unique=False)
    op.create_table(
        "conflicts",
        sa.Column("vm_uuid", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=40), nullable=False),
        sa.Column("first_seen", UtcDateTime(), nullable=False),
        sa.Column("last_seen", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["vm_uuid"], ["vms.uuid"], name=op.f("fk_conflicts_vm_uuid_vms")),
        sa.PrimaryKeyConstraint("vm_uuid", "provider", name=op.f("pk_conflicts")),
    )
    op.create_table(
        "epochs",
        sa.Column("vm_uuid", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=40), nullable=False),
        sa.Column("port_id", sa.Uuid(), nullable=True),
        sa.Column("committed_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_epochs_port_id_ports")),
        sa.ForeignKeyConstraint(["vm_uuid"], ["vms.uuid"], name=op.f("fk_epochs_vm_uuid_vms")),
        sa.PrimaryKeyConstraint("vm_uuid", "epoch", name=op.f("pk_epochs")),
    )
