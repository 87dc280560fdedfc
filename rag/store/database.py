"""Opens the database, brings its schema up to date, hands out transactions.

SQLite runs in WAL mode: any number of readers beside one writer, across processes. A write
transaction takes the write lock at its start (BEGIN IMMEDIATE), so two writers wait for each
other instead of failing half-way.
"""

from __future__ import annotations

import errno
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.orm import Session

from rag.errors import ConfigError, StorageError

SCHEMA_VERSION = "0003"
"""The newest migration; a test holds it against the migration folder."""

_CONNECTIONS = 40
"""Connections kept; more than threads that use the database at once."""

_SQLITE_FAULTS = {
    "SQLITE_BUSY": ("is locked by another process", "Wait for the other run to end, then retry."),
    "SQLITE_LOCKED": ("is locked by another process", "Wait for the other run, then retry."),
    "SQLITE_READONLY": ("cannot be written", "Check the permissions, or set YOUJU_HOME."),
    "SQLITE_FULL": ("cannot grow: the disk is full", "Free some space, then run it again."),
    "SQLITE_CANTOPEN": ("cannot be opened", "Check the folder's permissions, or set YOUJU_HOME."),
    "SQLITE_IOERR": ("cannot be read or written", "Check the disk and the space left on it."),
    "SQLITE_CORRUPT": ("is damaged", "Restore a backup of it."),
    "SQLITE_NOTADB": ("is not a SQLite database", "Move it away, or set YOUJU_HOME."),
}


class Database:
    """An open database.

    Args:
        url: A SQLAlchemy URL; a SQLite file's folder is made if missing.
        timeout_s: Seconds to wait for another writer.

    Raises:
        StorageError: If it cannot be opened, created or brought up to date.
        ConfigError: If the URL is not one.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        try:
            self._url = _parsed_url(url)
            self.name = self._url.render_as_string(hide_password=True)
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                self.name = self._url.database
            with translated(self.name):
                self._engine = _create_engine(url, timeout_s)
                weakref.finalize(self, self._engine.dispose)
                with self.read() as session:
                    current = _schema_version(session.connection()) == SCHEMA_VERSION
                if not current:
                    with self.write() as session:
                        _upgrade(session.connection(), self.name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"database_url needs the Python package {error.name!r}, which is not installed.",
                do=f"pip install {error.name}",
            ) from None
        except NoSuchModuleError as error:
            raise ConfigError(
                f"database_url is not usable: {error}.", do="Give a SQLAlchemy URL."
            ) from None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that sees one consistent state of the database.

        Raises:
            StorageError: If the database cannot be read now.
        """
        with translated(self.name), Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session that holds the write lock; commits at the end, rolls back on an error.

        Raises:
            StorageError: If the database cannot be written now; nothing is changed then.
        """
        with (
            translated(self.name),
            self._engine.connect().execution_options(youju_write=True) as connection,
            connection.begin(),
            Session(connection) as session,
        ):
            yield session
            session.flush()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _parsed_url(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # the text is not repeated: it may hold a password
        raise ConfigError(
            "database_url is not a URL.", do="Expected one like postgresql+pg8000://user@host/db."
        ) from None


@contextmanager
def translated(name: str | Path) -> Iterator[None]:
    """Turn faults of the database, the disk or the folder `name` into one StorageError.

    Raises:
        StorageError: Saying what is wrong with `name` and what to do.
    """
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError):
        raise  # a race that the caller decides about, or a bug of ours: no fault of the storage
    except DBAPIError as error:
        raise _storage_error(error.orig, str(name)) from error
    except sqlite3.Error as error:
        raise _storage_error(error, str(name)) from error
    except OSError as error:
        raise disk_error(error, name) from error


def disk_error(error: OSError, name: str | Path) -> StorageError:
    """Say what an OSError on `name` means to a user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"The disk is full: {name}.", do="Free some space, then run it again.")
    reason = error.strerror or str(error)
    return StorageError(
        f"Cannot use {error.filename or name}: {reason}.",
        do="Check the permissions, or set YOUJU_HOME to a folder you may write.",
    )


def _storage_error(error: BaseException | None, name: str) -> StorageError:
    code = getattr(error, "sqlite_errorname", None) or ""
    for prefix, (what, do) in _SQLITE_FAULTS.items():
        if code.startswith(prefix):
            return StorageError(f"The database {name} {what}.", do=do)
    detail = " ".join(str(error).split())
    return StorageError(f"The database {name} failed: {detail}.", do="Check `youju doctor`.")


def _create_engine(url: str, timeout_s: float) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            parsed, pool_pre_ping=True, pool_size=_CONNECTIONS, hide_parameters=True
        )
    if parsed.database and parsed.database != ":memory:":
        # Documents, keys and answers are in it: for nobody else on this machine.
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(
        parsed,
        connect_args={"timeout": timeout_s},
        pool_size=_CONNECTIONS,
        hide_parameters=True,  # they may hold the text of documents
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:  # noqa: ANN401
    connection.isolation_level = None  # BEGIN is ours to say
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("youju_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _schema_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection, name: str) -> None:
    found = _schema_version(connection)
    if found == SCHEMA_VERSION:
        return
    if found is not None and found > SCHEMA_VERSION:
        raise StorageError(
            f"The database {name} has schema {found}; this version knows {SCHEMA_VERSION}.",
            do="Upgrade youju.",
        )
    from alembic import command  # slow to import, rarely needed
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "rag.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
