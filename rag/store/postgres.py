"""What PostgreSQL needs beside SQLAlchemy: how it is connected to, and what its errors mean.

A reading transaction sees one moment (REPEATABLE READ), a writing one whatever is committed when
it takes a lock (READ COMMITTED). Errors are told apart by SQLSTATE: pg8000 has one class for most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from rag.errors import StorageBusy, StorageError

_WAIT_S = 10.0
"""Seconds that a thread waits for a connection, at most."""

_TRUSTED_S = 1.0
"""A connection that has been idle for longer is tried before it is used: that takes a while."""

_MIGRATION_LOCK: Final = 0x796F756A75
"""Held while the schema is changed; PostgreSQL's advisory locks have numbers for names."""

_LOST = ("08", "57P01", "57P02", "57P03", "57P05", "25P03")
"""SQLSTATEs, or their beginnings, after which a connection is of no use."""

_LOGIN = "Check the user and the password in database_url."
_LATER = "Try again in a moment."

# SQLSTATE or its beginning, the longest first: what is wrong, what to do. "{}" is the server's own
# message, which is told only where it names no content.
_FAULTS: Mapping[str, tuple[str, str]] = {
    "25006": ("takes no changes: {}", "Give the URL of the primary server."),
    "3D000": ("does not exist", "Make it: createdb --encoding UTF8 NAME"),
    "42501": ("denies it: {}", "Let the user own the database, or grant it CREATE on the schema."),
    "42P07": ("is used by another program: {}", "Give Youju a database of its own."),
    "53100": ("cannot grow: the disk is full", "Free some space, then run it again."),
    "57014": ("has stopped the work: {}", _LATER),
    "08": ("has closed the connection", _LATER),
    "25P03": ("has closed the connection: {}", _LATER),
    "28": ("refuses the login: {}", _LOGIN),
    "53": ("is short of resources: {}", _LATER),
    "54": ("has a limit: {}", "Shorten the names of files and folders."),
    "57": ("is not there now: {}", _LATER),
    "58": ("failed: {}", "See PostgreSQL's own log."),
    "XX": ("failed: {}", "See PostgreSQL's own log."),
}
_BUSY: Mapping[str, tuple[str, str]] = {
    "53300": (
        "takes no more connections",
        "Lower database_pool or the number of workers, or raise PostgreSQL's max_connections.",
    ),
    "55P03": ("is locked by another process", "Wait for the other run to end, then retry."),
}
_COLLISIONS = ("40001", "40P01")


class Collision(StorageBusy):
    """A transaction was given up for another's; nothing of it was done, and it can be repeated."""


def make_engine(url: URL, *, pool: int, timeout_s: float) -> Engine:
    """Return an engine that connects on first use.

    Args:
        url: Of any PostgreSQL driver.
        pool: Connections at most.
        timeout_s: Seconds to wait for another transaction's lock.
    """
    engine = create_engine(
        url,
        isolation_level="REPEATABLE READ",
        pool_size=pool,
        max_overflow=0,
        pool_timeout=min(timeout_s, _WAIT_S),
        pool_use_lifo=True,  # those that are not needed stay idle, and the server may close them
        hide_parameters=True,  # they may hold the text of documents
    )

    def prepare(connection: Any, _record: Any) -> None:  # noqa: ANN401  of the driver's own class
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {max(1, int(timeout_s * 1000))}")
        cursor.close()
        connection.commit()

    broken = (engine.dialect.loaded_dbapi.Error, OSError)

    def check_idle(
        connection: Any,  # noqa: ANN401
        record: ConnectionPoolEntry,
        _proxy: PoolProxiedConnection,
    ) -> None:
        # In place of SQLAlchemy's own check: pg8000 lets some errors of the socket through.
        if time.monotonic() - record.info.get("youju_used", math.inf) <= _TRUSTED_S:
            return
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            connection.rollback()  # the transaction to come sees what is there when it begins
        except broken as error:
            raise InvalidatePoolError from error  # this one is replaced, and all others

    event.listen(engine, "connect", prepare)
    event.listen(engine, "checkin", _remember_use)
    event.listen(engine, "checkout", check_idle)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "handle_error", _notice_loss)
    return engine


def lock_for_migration(connection: Connection, name: str) -> None:
    """Wait until no other process changes the schema; the lock goes with the transaction.

    Raises:
        StorageError: If the database cannot hold every text.
    """
    connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    encoding = connection.execute(text("SHOW server_encoding")).scalar()
    if encoding != "UTF8":
        raise StorageError(
            f"The database {name} has the encoding {encoding}; expected UTF8.",
            do="Make another: createdb --encoding UTF8 --template template0 NAME",
        )


def meaning(error: DBAPIError, name: str) -> Exception | None:
    """Return what an error of PostgreSQL is to the rest of the program.

    Args:
        error: What SQLAlchemy raised.
        name: The database's, without a password.

    Returns:
        An IntegrityError, a StorageError, or None for a bug of ours: a statement or value that
        the database does not understand.
    """
    code = sqlstate(error.orig)
    if code.startswith("23"):
        return IntegrityError(error.statement, None, error.orig or error)
    if code in _COLLISIONS:
        return Collision(f"The database {name} gave a change up for another's.", do=_LATER)
    if code in _BUSY:
        what, do = _BUSY[code]
        return StorageBusy(f"The database {name} {what}.", do=do)
    for prefix, (what, do) in _FAULTS.items():
        if code.startswith(prefix):
            return StorageError(f"The database {name} {what.format(_message(error))}.", do=do)
    if not code and isinstance(error, (OperationalError, InterfaceError)):
        return unreachable(name, _message(error))
    return None


def unreachable(name: str, reason: str) -> StorageError:
    """Return the error for a server that does not answer."""
    return StorageError(
        f"The database {name} cannot be reached: {reason}.",
        do="Check that it runs, and the setting database_url.",
    )


def pool_is_full(name: str, pool: int) -> StorageBusy:
    """Return the error for a thread that has waited in vain for a connection."""
    return StorageBusy(
        f"All {pool} connections to the database {name} are in use.",
        do="Try again in a moment, or raise database_pool.",
    )


def sqlstate(error: BaseException | None) -> str:
    """Return the five characters of PostgreSQL's error code; "" if the driver gives none."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    details = error.args[0] if error is not None and error.args else None
    if code is None and isinstance(details, dict):  # pg8000
        code = details.get("C")
    return code if isinstance(code, str) else ""


def _message(error: DBAPIError) -> str:
    """Return the server's message without its details, which quote what was to be stored."""
    found: BaseException = error.orig or error
    details = found.args[0] if found.args else ""
    if isinstance(details, dict):
        details = details.get("M", "")
    elif isinstance(found.__cause__, OSError):
        details = found.__cause__.strerror or str(found.__cause__)
    lines = str(details).splitlines() or [""]
    return " ".join(lines[0].split()).rstrip(".")


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("youju_write", False):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")


def _remember_use(_connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401
    record.info["youju_used"] = time.monotonic()


def _notice_loss(context: ExceptionContext) -> None:
    """Tell the pool of connections that are lost: drivers do not know all such errors."""
    error = context.original_exception
    if isinstance(error, OSError) or sqlstate(error).startswith(_LOST):
        context.is_disconnect = True
