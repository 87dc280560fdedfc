"""Runs migrations on the connection that rag.store.database hands over."""

from __future__ import annotations

from alembic import context

from rag.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
