"""When each node was heard last.

Revision 0003; revises 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table; it fills with the providers' next reports."""
    op.create_table(
        "nodes",
        sa.Column("provider", sa.String(40), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("heard_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "name", name=op.f("pk_nodes")),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("nodes")
