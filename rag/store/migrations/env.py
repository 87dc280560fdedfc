"""Runs migrations on the connection that rag.store.database hands over."""

from __future__ import annotations

from alembic import context

from rag.store.service_tables import FileRow

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=FileRow.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
