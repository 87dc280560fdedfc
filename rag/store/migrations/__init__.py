"""Alembic migrations; run by rag.store.database, never by hand."""
