"""The measured outage beside the measured downtime.

Revision 0002; revises 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; ports of before were not measured."""
    op.add_column("sla_records", sa.Column("measured_outage_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("sla_records", "measured_outage_ms")
