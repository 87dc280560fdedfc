"""Add projects, keys, uploaded files, their places in stores, responses and feedback."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_DEFAULT_PROJECT = "proj_default"
_ID = sa.String(40)


def upgrade() -> None:
    """Create the tables, and give every document that is there already a file."""
    op.create_table(
        "projects",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("hint", sa.String(8), nullable=False),
        sa.Column("scope", sa.String(10), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
    )
    for column in (
        sa.Column("project_id", _ID, nullable=False, server_default=_DEFAULT_PROJECT),
        sa.Column("title", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("details", sa.JSON, nullable=False, server_default="{}"),
        sa.Column("expires_days", sa.Integer),
        sa.Column("last_active_at", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("stores", column)
    op.create_index("stores_by_project", "stores", ["project_id", "created_at", "id"])
    op.add_column(
        "documents", sa.Column("file_id", _ID, nullable=False, server_default=sa.text("''"))
    )
    op.create_index("documents_by_file", "documents", ["file_id"])
    op.create_table(
        "files",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("kept", sa.Boolean, nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("media_type", sa.String(200), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
    )
    op.create_index("files_by_project", "files", ["project_id", "created_at", "id"])
    op.create_index("files_by_sha256", "files", ["sha256"])
    op.create_table(
        "store_files",
        sa.Column("store_id", _ID, primary_key=True),
        sa.Column("file_id", _ID, primary_key=True),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("error_code", sa.String(20)),
        sa.Column("error_message", sa.Text),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("chunk_tokens", sa.Integer),
        sa.Column("chunk_overlap", sa.Integer),
        sa.Column("usage_bytes", sa.BigInteger, nullable=False),
        sa.Column("batch_id", _ID),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.String(40)),
        sa.Column("worker_until", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], ondelete="CASCADE"),
    )
    op.create_index("store_files_by_status", "store_files", ["status", "created_at"])
    op.create_index("store_files_by_file", "store_files", ["file_id"])
    op.create_index("store_files_by_batch", "store_files", ["batch_id"])
    op.create_table(
        "file_batches",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("store_id", _ID, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.ForeignKeyConstraint(["store_id"], ["stores.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("media_type", sa.String(200), nullable=False),
        sa.Column("status", sa.String(12), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("file_expires_after", sa.BigInteger),
        sa.Column("file_id", _ID),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "upload_parts",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("upload_id", _ID, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["uploads.id"], ondelete="CASCADE"),
    )
    op.create_index("upload_parts_by_upload", "upload_parts", ["upload_id"])
    op.create_table(
        "responses",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("previous_id", _ID),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("refused", sa.Boolean, nullable=False),
        sa.Column("passages", sa.JSON, nullable=False),
        sa.Column("turns", sa.JSON, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "feedback",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("response_id", _ID, nullable=False),
        sa.Column("rating", sa.String(4), nullable=False),
        sa.Column("correction", sa.Text),
        sa.Column("comment", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], ondelete="CASCADE"),
    )
    op.create_index("feedback_by_project", "feedback", ["project_id", "created_at", "id"])
    _fill()


def _fill() -> None:
    connection = op.get_bind()
    connection.execute(
        sa.text("INSERT INTO projects (id, name, created_at) VALUES (:id, 'default', 0)"),
        {"id": _DEFAULT_PROJECT},
    )
    connection.execute(sa.text("UPDATE stores SET title = name, last_active_at = created_at"))
    rows = connection.execute(
        sa.text(
            "SELECT documents.id, store_id, documents.name, size, sha256, media_type, "
            "documents.created_at FROM documents JOIN stores ON stores.id = store_id "
            "WHERE stores.name NOT LIKE '~%'"
        )
    ).all()
    for row in rows:
        values = {
            "document": row.id,
            "file": f"file-{secrets.token_hex(12)}",
            "store": row.store_id,
            "project": _DEFAULT_PROJECT,
            "name": row.name,
            "bytes": row.size,
            "sha256": row.sha256,
            "media_type": row.media_type,
            "created_at": row.created_at,
            "no": False,
        }
        for statement in (
            "INSERT INTO files (id, project_id, filename, bytes, sha256, kept, purpose, "
            "media_type, created_at) VALUES (:file, :project, :name, :bytes, :sha256, :no, "
            "'assistants', :media_type, :created_at)",
            "INSERT INTO store_files (store_id, file_id, status, attributes, usage_bytes, "
            "created_at, worker_until) VALUES (:store, :file, 'completed', '{}', :bytes, "
            ":created_at, 0)",
            "UPDATE documents SET file_id = :file WHERE id = :document",
        ):
            connection.execute(sa.text(statement), values)


def downgrade() -> None:
    """Drop what `upgrade` created."""
    for table in (
        "feedback", "responses", "upload_parts", "uploads", "file_batches", "store_files",
        "files", "api_keys", "projects",
    ):  # fmt: skip
        op.drop_table(table)
    op.drop_index("documents_by_file", "documents")
    op.drop_column("documents", "file_id")
    op.drop_index("stores_by_project", "stores")
    for column in (
        "project_id", "title", "description", "details", "expires_days", "last_active_at",
    ):  # fmt: skip
        op.drop_column("stores", column)
