"""Unpacks a backup into a folder of its own and checks all of it, before anything is replaced."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from rag.backup.archive import (
    DATABASE,
    MANIFEST,
    MANIFEST_BYTES,
    ArchiveReader,
    Member,
)
from rag.backup.manifest import Manifest, decode
from rag.errors import BackupError, StorageError
from rag.store.database import Database
from rag.store.tables import Base
from rag.terminal import Advance, Progress

_MIB = 1 << 20
_SPARE = 64 * _MIB
_OURS = frozenset({"alembic_version", "sqlite_sequence"})


def unpack(file: Path, folder: Path, progress: Advance) -> Manifest:
    """Unpack a backup and bring its database to the newest schema.

    Args:
        file: The backup.
        folder: Empty; `youju.db`, `blobs/` and `parts/` are made in it.
        progress: Told how many MiB of how many are done.

    Returns:
        What the backup says of itself, which is true of what was unpacked.

    Raises:
        BackupError: If it is damaged, too new, no backup, or holds what none does.
        StorageError: If there is no room for it.
        OSError: If it cannot be read.
    """
    with file.open("rb") as handle:
        members = ArchiveReader(handle, str(file)).members()
        manifest = _manifest(next(members), file)
        _check_room(manifest, folder)
        left = {"parts": manifest.parts, "blobs": manifest.blobs}
        bytes_left = manifest.total_bytes
        for member in members:
            kind = member.name.split("/", 1)[0]
            bytes_left -= member.size
            if kind in left:
                left[kind] -= 1
            if bytes_left < 0 or left.get(kind, 0) < 0:
                raise BackupError(f"{file} holds more than its manifest says.")
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(member, path, _wanted(member.name, manifest), file)
            done = (manifest.total_bytes - bytes_left) // _MIB
            progress(Progress(done, manifest.total_bytes // _MIB, kind))
    _check_database(folder / DATABASE, manifest, file)
    return manifest


def _manifest(member: Member, file: Path) -> Manifest:
    if member.name != MANIFEST or member.size > MANIFEST_BYTES:
        raise BackupError(f"{file} is no backup of Youju.")
    return decode(b"".join(member.blocks), str(file))


def _check_room(manifest: Manifest, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if manifest.total_bytes + _SPARE > free:
        raise StorageError(
            f"The backup needs {manifest.total_bytes / _MIB:,.0f} MiB unpacked; "
            f"{free / _MIB:,.0f} MiB are free in {folder.parent}.",
            do="Free some space, then run it again.",
        )


def _wanted(name: str, manifest: Manifest) -> str | None:
    """Return the digest that a file must have; None if it may have any."""
    if name == DATABASE:
        return manifest.database_sha256
    return name.rsplit("/", 1)[1] if name.startswith("blobs/") else None


def _write(member: Member, path: Path, wanted: str | None, file: Path) -> None:
    import hashlib

    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        for block in member.blocks:
            digest.update(block)
            handle.write(block)
        handle.flush()
        if member.name == DATABASE:  # the many blobs are brought to disk all at once, later
            os.fsync(handle.fileno())
    if wanted is not None and digest.hexdigest() != wanted:
        raise BackupError(
            f"{file} is damaged: {member.name} is not what was written.",
            do="Use another copy of it.",
        )


def _check_database(path: Path, manifest: Manifest, file: Path) -> None:
    """Refuse a database that is damaged, or holds more than tables of ours; migrate it."""
    if not path.exists():
        raise BackupError(f"{file} holds no database.")
    try:
        with closing(sqlite3.connect(path)) as rows:
            rows.execute("PRAGMA trusted_schema = OFF")
            rows.execute("PRAGMA cell_size_check = ON")
            strange = list(_strange(rows))
            found = rows.execute("SELECT version_num FROM alembic_version").fetchall()
            (check,) = rows.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"The database in {file} is damaged: {error}.") from None
    if strange:
        raise BackupError(
            f"The database in {file} holds {strange[0][:80]!r}, which none of ours does."
        )
    if found != [(manifest.schema,)] or check != "ok":
        raise BackupError(f"The database in {file} is damaged, or not of schema {manifest.schema}.")
    Database(f"sqlite:///{path}").close()


def _strange(rows: sqlite3.Connection) -> Iterator[str]:
    """Yield what a database holds beside tables and indexes of ours: triggers, views, ..."""
    known = _OURS | set(Base.metadata.tables)
    for kind, name, table, sql in rows.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master"
    ):
        plain = sql is None or str(sql).upper().startswith(("CREATE TABLE", "CREATE INDEX"))
        if kind not in ("table", "index") or table not in known or not plain:
            yield str(name)
