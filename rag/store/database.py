"""Opens the database, brings its schema up to date, hands out transactions.

SQLite runs in WAL mode: any number of readers beside one writer, across processes. A write
transaction takes the write lock at its start (BEGIN IMMEDIATE), so two writers wait for each
other instead of failing half-way. What PostgreSQL needs is in rag.store.postgres.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
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
from rag.store.hold import hold

SCHEMA_VERSION = "0005"
"""The newest migration; a test holds it against the migration folder."""

VACUUM_BYTES = 1 << 30
"""A larger database is not rewritten by itself: that keeps writers out for too long."""

_SCRUB_WAIT_MS = 2000
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
            self._url = parsed_url(url)
            self._pool = pool
            self.name = self._url.render_as_string(hide_password=True)
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                self.name = self._url.database
            with self._translated():
                self._engine = self._create_engine(timeout_s)
                weakref.finalize(self, self._engine.dispose)
                self._file = sqlite_file(self._url)
                self._stamp: tuple[int, int] | None = None
                self._say_in_use(timeout_s)
                self._bring_up_to_date()
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"database_url needs the Python package {error.name!r}, which is not installed.",
                do=f"pip install {error.name}",
            ) from None
        except NoSuchModuleError as error:
            raise ConfigError(
                f"database_url is not usable: {error}.", do="Give a SQLAlchemy URL."
            ) from None

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for another database."""
        return self._file

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, for work on the database as a whole."""
        return self._engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session that sees one consistent state of the database.

        Raises:
            StorageError: If the database cannot be read now.
        """
        self._notice_another_file()
        with self._translated(), Session(self._engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session that holds the write lock; commits at the end, rolls back on an error.

        Raises:
            StorageError: If the database cannot be written now; nothing is changed then.
        """
        self._notice_another_file()
        with (
            self._translated(),
            self._engine.connect().execution_options(youju_write=True) as connection,
            connection.begin(),
            Session(connection) as session,
        ):
            yield session
            session.flush()

    def deletions(self) -> int:
        """Return a number that is 0 once the traces of all that was deleted have been removed.

        0 always for other databases than SQLite, which keep their files themselves.
        """
        if self._file is None:
            return 0
        with self.read() as session:
            return int(session.execute(text("PRAGMA user_version")).scalar_one())

    def scrub(self, seen: int) -> bool:
        """Remove the traces of deleted rows from the database's files.

        SQLite overwrites what is deleted, but not copies that it left when it moved rows to other
        pages, and its write-ahead log holds pages as they were.

        Args:
            seen: What `deletions` was when the other traces, if any, began to be removed; it is 0
                afterwards, unless there were more deletions meanwhile.

        Returns:
            Whether it could be done; not while others read or write for longer.

        Raises:
            StorageError: If the database cannot be written.
        """
        if self._file is None:
            return True
        with translated(self.name), contextlib.closing(sqlite3.connect(self._file)) as connection:
            connection.isolation_level = None
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA busy_timeout = {_SCRUB_WAIT_MS}")
            if self._file.stat().st_size <= VACUUM_BYTES:
                connection.execute("VACUUM")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == seen:
                connection.execute("PRAGMA user_version = 0")
            connection.execute("COMMIT")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                connection.execute(f"PRAGMA user_version = {max(seen, 1)}")
            return not busy

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        self._let_go()

    def _bring_up_to_date(self) -> None:
        with Session(self._engine) as session:
            current = _schema_version(session.connection()) == SCHEMA_VERSION
        if not current:
            with self.write() as session:
                _upgrade(session.connection(), self.name)
        self._stamp = _stamp(self._file)

    def _say_in_use(self, timeout_s: float) -> None:
        """Keep a restore from putting another database in place of this one meanwhile."""
        self._let_go: Callable[[], None] = _nothing
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a folder that cannot be written is told of below
            taken = hold(in_use_file(self._file), alone=False, wait_s=timeout_s)
            if taken is None:
                raise StorageError(
                    f"The database {self.name} is being restored.",
                    do="Wait for that to end, then retry.",
                )
            weakref.finalize(self, taken.close)
            self._let_go = taken.close

    def _notice_another_file(self) -> None:
        """Open the file that is there now, if somebody has put another one in its place."""
        if self._stamp is None:
            return
        found = _stamp(self._file)
        if found is not None and found != self._stamp:
            self._engine.dispose()
            self._stamp = None
            with translated(self.name):
                self._bring_up_to_date()

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


def sqlite_file(url: URL) -> Path | None:
    """Return the file of a SQLite database; None for one in memory and for other databases."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def in_use_file(file: Path) -> Path:
    """Return the file on which those who use a SQLite database have a hold."""
    return file.with_name(file.name + ".in-use")


def _nothing() -> None:
    pass


def _stamp(file: Path | None) -> tuple[int, int] | None:
    """Return what tells a file from another one of its name; None if there is none."""
    if file is None:
        return None
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def parsed_url(url: str) -> URL:
    """Return a URL in its parts.

    Raises:
        ConfigError: If it is not one.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # the text is not repeated: it may hold a password
        raise ConfigError(
            "database_url is not a URL.", do="Expected one like postgresql+pg8000://user@host/db."
        ) from None


def mark_deleted(session: Session) -> None:
    """Note, in the transaction that deletes text, that traces of it are to be removed."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        before = connection.execute(text("PRAGMA user_version")).scalar_one()
        connection.execute(text(f"PRAGMA user_version = {before % (1 << 30) + 1}"))


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
