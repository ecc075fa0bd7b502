"""Extensions that outlive their ports.

Revision 0004; revises 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "extensions",
        sa.Column("port_id", sa.Uuid(), nullable=False),
        sa.Column("vm_uuid", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("donor_node", sa.String(200), nullable=False),
        sa.Column("recipient_node", sa.String(200), nullable=False),
        sa.Column("has_lanes", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("donor_closed", sa.Boolean(), nullable=False),
        sa.Column("recipient_closed", sa.Boolean(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_extensions_port_id_ports")),
        sa.PrimaryKeyConstraint("port_id", name=op.f("pk_extensions")),
    )
    op.create_index("ix_extensions_vm_uuid", "extensions", ["vm_uuid"], unique=False)


def downgrade() -> None:
    """Forget extensions; their lanes go when nobody has used them for a while."""
    op.drop_table("extensions")
