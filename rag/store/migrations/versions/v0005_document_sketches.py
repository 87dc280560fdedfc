"""Add a small sketch of each document's text, by which ones that say nearly the same are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables; a document without rows in them is like none, until it is read again."""
    key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "document_sketches",
        sa.Column("document_id", key, primary_key=True, autoincrement=False),
        sa.Column("sketch", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "sketch_keys",
        sa.Column("document_id", key, primary_key=True, autoincrement=False),
        sa.Column("key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.ForeignKeyConstraint(["document_id"], ["documents.id"], ondelete="CASCADE"),
    )
    op.create_index("sketch_keys_by_key", "sketch_keys", ["key", "document_id"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("sketch_keys")
    op.drop_table("document_sketches")
