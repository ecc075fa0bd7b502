"""Credits that providers gave for promises that they did not keep.

Revision 0008; revises 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store import UtcDateTime

revision = "0008"
down_revision = "0005"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "credits",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("port_id", sa.Uuid(), nullable=True),
        sa.Column("vm_uuid", sa.Uuid(), nullable=True),
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("guarantee", sa.Text(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_credits_port_id_ports")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credits")),
        sa.CheckConstraint("amount > 0", name=op.f("ck_credits_amount_positive")),
        sa.CheckConstraint("port_id IS NOT NULL OR vm_uuid IS NOT NULL", name=op.f("ck_credits_of_port_or_vm")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_credits_port_id", "credits", ["port_id"])
    op.create_index("ix_credits_vm_uuid_at", "credits", ["vm_uuid", "at"])


def downgrade() -> None:
    """Forget the credits."""
    op.drop_table("credits")
