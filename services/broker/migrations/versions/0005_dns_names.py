"""What DNS was told of each VM.

Revision 0005; revises 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "dns_names",
        sa.Column("vm_uuid", sa.Uuid(), nullable=False),
        sa.Column("zone", sa.String(255), nullable=False),
        sa.Column("label", sa.String(63), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("written", sa.Text(), nullable=False),
        sa.Column("ttl_s", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["vm_uuid"], ["vms.uuid"], name=op.f("fk_dns_names_vm_uuid_vms")),
        sa.PrimaryKeyConstraint("vm_uuid", name=op.f("pk_dns_names")),
    )
    op.create_index("uq_dns_names_zone_label", "dns_names", ["zone", "label"], unique=True)


def downgrade() -> None:
    """Forget what was told; the records stay in the zone."""
    op.drop_table("dns_names")
