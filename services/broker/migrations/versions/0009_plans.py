"""Price lists of providers, plans for many VMs, and their moves.

Revision 0009; revises 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store import UtcDateTime

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "catalogues",
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("catalogue", sa.Text(), nullable=False),
        sa.Column("reported_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", name=op.f("pk_catalogues")),
    )
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.String(40), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("terms", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("plan_id", name=op.f("pk_plans")),
    )
    op.create_index("ix_plans_tenant_created_at", "plans", ["tenant", "created_at"])
    op.create_index("ix_plans_state", "plans", ["state"])
    op.create_table(
        "plan_moves",
        sa.Column("plan_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("vm_uuid", sa.Uuid(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("donor", sa.String(40), nullable=False),
        sa.Column("recipient", sa.String(40), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("port_id", sa.Uuid(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.plan_id"], name=op.f("fk_plan_moves_plan_id_plans")),
        sa.PrimaryKeyConstraint("plan_id", "number", name=op.f("pk_plan_moves")),
    )
    op.create_index("ix_plan_moves_port_id", "plan_moves", ["port_id"])


def downgrade() -> None:
    """Forget all plans; ports that they filed go on."""
    op.drop_table("plan_moves")
    op.drop_table("plans")
    op.drop_table("catalogues")
