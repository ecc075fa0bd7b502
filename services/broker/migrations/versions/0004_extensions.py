"""Extensions that outlive their ports, and lanes that are not a port's own.

Revision 0004; revises 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.store import UtcDateTime

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Lanes get an id of their own; so far it was the port's."""
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
    jobs = _jobs("SELECT port_id AS lane_id, port_id, donor_node, recipient_node, wanted, done FROM lane_jobs")
    op.drop_table("lane_jobs")
    made = op.create_table(
        "lane_jobs",
        sa.Column("lane_id", sa.Uuid(), nullable=False),
        sa.Column("port_id", sa.Uuid(), nullable=False),
        *_job_columns(),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_lane_jobs_port_id_ports")),
        sa.PrimaryKeyConstraint("lane_id", name=op.f("pk_lane_jobs")),
    )
    op.create_index("ix_lane_jobs_done", "lane_jobs", ["done"], unique=False)
    op.create_index("ix_lane_jobs_port_id", "lane_jobs", ["port_id"], unique=False)
    op.bulk_insert(made, jobs)


def downgrade() -> None:
    """Forget extensions; their lanes go when nobody has used them for a while."""
    op.drop_table("extensions")
    jobs = _jobs(
        "SELECT port_id AS lane_id, port_id, donor_node, recipient_node, wanted, done FROM lane_jobs "
        "WHERE lane_id = port_id"
    )
    op.drop_table("lane_jobs")
    made = op.create_table(
        "lane_jobs",
        sa.Column("port_id", sa.Uuid(), nullable=False),
        *_job_columns(),
        sa.ForeignKeyConstraint(["port_id"], ["ports.port_id"], name=op.f("fk_lane_jobs_port_id_ports")),
        sa.PrimaryKeyConstraint("port_id", name=op.f("pk_lane_jobs")),
    )
    op.create_index("ix_lane_jobs_done", "lane_jobs", ["done"], unique=False)
    op.bulk_insert(made, [{name: value for name, value in job.items() if name != "lane_id"} for job in jobs])


def _job_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("donor_node", sa.String(200), nullable=False),
        sa.Column("recipient_node", sa.String(200), nullable=False),
        sa.Column("wanted", sa.String(10), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
    )


def _jobs(statement: str) -> list[dict[str, object]]:
    typed = sa.text(statement).columns(lane_id=sa.Uuid(), port_id=sa.Uuid(), done=sa.Boolean())
    return [dict(row) for row in op.get_bind().execute(typed).mappings()]
