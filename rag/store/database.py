"""Opens the database, brings its schema up to date, hands out transactions.

SQLite runs in WAL mode: any number of readers beside one writer, across processes. A write
transaction takes the write lock at its start (BEGIN IMMEDIATE), so two writers wait for each
other instead of failing half-way. What PostgreSQL needs is in rag.store.postgres.
"""

from __future__ import annotations

import errno
import functools
import random
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

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
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from rag.errors import ConfigError, StorageError
from rag.store import postgres

SCHEMA_VERSION = "0003"
"""The newest migration; a test holds it against the migration folder."""

_CONNECTIONS = 40
"""Connections to SQLite kept; more than threads that use the database at once."""

_PAUSES_S = (0.02, 0.1, 0.5)
"""Before each further try of a transaction that was given up for another's."""

P = ParamSpec("P")
T = TypeVar("T")

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
        pool: Connections at most; for SQLite, whose cost nothing, there is no such limit.

    Raises:
        StorageError: If it cannot be opened, created or brought up to date.
        ConfigError: If the URL is not one, or of a kind of database that is not supported.
    """

    def __init__(self, url: str, *, timeout_s: float = 30.0, pool: int = 10) -> None:
        try:
            self._url = _parsed_url(url)
            self._pool = pool
            self.name = self._url.render_as_string(hide_password=True)
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                self.name = self._url.database
            with self._translated():
                self._engine = self._create_engine(timeout_s)
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
        with self._translated(), Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session that holds the write lock; commits at the end, rolls back on an error.

        Raises:
            StorageError: If the database cannot be written now; nothing is changed then.
        """
        with (
            self._translated(),
            self._engine.connect().execution_options(youju_write=True) as connection,
            connection.begin(),
            Session(connection) as session,
        ):
            yield session
            session.flush()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with translated(self.name):
            try:
                yield
            except PoolTimeout as error:
                raise postgres.pool_is_full(self.name, self._pool) from error
            except DBAPIError as error:
                found = postgres.meaning(error, self.name) if self._is_postgres else None
                if found is None:
                    raise
                raise found from error
            except OSError as error:  # pg8000 lets some errors of the socket through
                if not self._is_postgres:
                    raise
                raise postgres.unreachable(self.name, error.strerror or str(error)) from error

    @property
    def _is_postgres(self) -> bool:
        return self._url.get_backend_name() == "postgresql"

    def _create_engine(self, timeout_s: float) -> Engine:
        match self._url.get_backend_name():
            case "sqlite":
                return _sqlite_engine(self._url, timeout_s)
            case "postgresql":
                return postgres.make_engine(self._url, pool=self._pool, timeout_s=timeout_s)
            case other:
                raise ConfigError(
                    f"database_url is of {other[:40]}, which is not supported.",
                    do="Give one of PostgreSQL, or none for SQLite.",
                )


def retried(work: Callable[P, T]) -> Callable[P, T]:
    """Run a transaction again, three times at most, that was given up for another's.

    For functions that hold the whole transaction and do nothing else that lasts.
    """

    @functools.wraps(work)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause in _PAUSES_S:
            try:
                return work(*args, **kwargs)
            except postgres.Collision:
                time.sleep(pause * (0.5 + random.random()))
        return work(*args, **kwargs)

    return wrapped


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
    except PoolTimeout as error:
        raise StorageError(
            f"The database {name} is busy: no connection became free.", do="Try again later."
        ) from error
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


def _sqlite_engine(url: URL, timeout_s: float) -> Engine:
    if url.database and url.database != ":memory:":
        # Documents, keys and answers are in it: for nobody else on this machine.
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(
        url,
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
    if connection.dialect.name == "postgresql":
        postgres.lock_for_migration(connection, name)
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
