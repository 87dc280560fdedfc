"""Let a file be in several batches, each of which counts it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table and fill it from the one batch that each file had."""
    op.create_table(
        "batch_files",
        sa.Column("batch_id", sa.String(40), primary_key=True),
        sa.Column("file_id", sa.String(40), primary_key=True),
        sa.ForeignKeyConstraint(["batch_id"], ["file_batches.id"], ondelete="CASCADE"),
    )
    op.execute(
        "INSERT INTO batch_files (batch_id, file_id) "
        "SELECT batch_id, file_id FROM store_files "
        "WHERE batch_id IN (SELECT id FROM file_batches)"
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("batch_files")
