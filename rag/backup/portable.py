"""Copies all rows between a database of any kind and SQLite, by the tables that both have."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import BigInteger, Connection, Engine, Integer, Table, delete, insert, select, text

from rag.store.database import Database
from rag.store.tables import Base

_ROWS = 500


def copy_to_sqlite(source: Engine, file: Path) -> None:
    """Copy a database, in one consistent state, into a new SQLite file.

    Args:
        source: Of the newest schema.
        file: Where to; not there yet.

    Raises:
        StorageError: If it cannot be written.
    """
    target = Database(f"sqlite:///{file}")
    try:
        reading = source.connect().execution_options(isolation_level="REPEATABLE READ")
        with reading as connection, connection.begin(), target.write() as session:
            copy_rows(connection, session.connection())
    finally:
        target.close()


def copy_rows(source: Connection, target: Connection) -> None:
    """Replace all rows of `target` by those of `source`; both are of the newest schema."""
    tables = Base.metadata.sorted_tables
    for table in reversed(tables):
        target.execute(delete(table))
    for table in tables:
        found = source.execution_options(yield_per=_ROWS).execute(select(table))
        for rows in found.mappings().partitions(_ROWS):
            target.execute(insert(table), [dict(row) for row in rows])
        if target.dialect.name == "postgresql":
            _go_on_counting(target, table)


def _go_on_counting(target: Connection, table: Table) -> None:
    """Have PostgreSQL give out ids above those that were copied."""
    (key, *others) = table.primary_key.columns
    if others or not isinstance(key.type, (BigInteger, Integer)):
        return
    target.execute(
        text(
            f"SELECT setval(pg_get_serial_sequence('{table.name}', '{key.name}'), "  # noqa: S608
            f"coalesce(max({key.name}), 0) + 1, false) FROM {table.name}"
        )
    )
