"""Puts a backup in the place of a home folder's database and blobs, or into an empty PostgreSQL.

Everything is unpacked and checked in a folder inside the home first. Blobs are named by their
content, so that new ones can lie beside old ones; what decides is the database. Renaming its file
is the one step before which everything is as it was and after which everything is restored.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete, func, insert, select, text, update

from rag.backup.archive import DATABASE
from rag.backup.manifest import Manifest
from rag.backup.portable import copy_rows
from rag.backup.unpack import unpack
from rag.config import Settings
from rag.errors import BackupError, PathError
from rag.store.blobs import Blobs
from rag.store.database import (
    Database,
    in_use_file,
    mark_deleted,
    parsed_url,
    sqlite_file,
    translated,
)
from rag.store.files import Files
from rag.store.hold import Hold, hold
from rag.store.service_tables import FileRow, ProjectRow
from rag.store.tables import DEFAULT_PROJECT, Base, ChangeRow, StoreRow
from rag.terminal import Advance

STAGING = "restoring-"
ASIDE = "before-restore-"
_JUMP = 1 << 48
"""Range of the random step that takes a restored log away from every number given out before."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A backup that was put back.

    Attributes:
        home: Where.
        created_at: When it was written, Unix seconds.
        youju: Version of the program that wrote it.
        stores, documents, files: What is there now.
        missing: Names of uploaded files whose bytes the backup lacks.
        aside: Folder with what was there before; None if nothing was.
    """

    home: str
    created_at: int
    youju: str
    stores: int
    documents: int
    files: int
    missing: tuple[str, ...]
    aside: str | None


def restore(
    file: Path,
    settings: Settings,
    *,
    force: bool = False,
    progress: Advance = lambda _progress: None,
) -> Restored:
    """Restore a backup; killed at any moment it leaves either what was or what is to be.

    Args:
        file: The backup.
        settings: They name the home folder and the database.
        force: Move what is there aside.
        progress: Told how many MiB of how many are done.

    Raises:
        BackupError: If the backup cannot be used, the home is in use, or holds data and `force`
            is not given.
        PathError: If there is no such file.
        StorageError: If the home cannot be written, or has no room; it is as it was then.
    """
    if not file.is_file():
        raise PathError(f"There is no file {file}.", do="Give the name of a backup.")
    database = sqlite_file(parsed_url(settings.url))
    with translated(settings.home), _staging(settings.home) as (folder, made):
        if database is None:
            manifest = unpack(file, folder, progress)
            result = _into_server(settings, folder, manifest)
        else:
            with closing(_alone(database)):
                _clear(settings.home, keep=folder)
                held = _holds_data(database) or _has_blobs(settings.blobs_folder)
                if held and not force:
                    raise BackupError(
                        f"{settings.home} holds data already.",
                        do="Give another --home, or --force to move aside what is there.",
                    )
                manifest = unpack(file, folder, progress)
                result = _into_file(settings, database, folder, manifest, aside=held)
            if held:
                _drop_old_blobs(settings)
        made.clear()
    return result


@contextmanager
def _staging(home: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder inside the home, and the folders that go again if nothing comes of it."""
    missing = [home, *home.parents]
    made = [path for path in missing if not path.exists()]
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = home / f"{STAGING}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder, made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            in_use_file(home / "youju.db").unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _alone(database: Path) -> Hold:
    """Keep everybody else out.

    Raises:
        BackupError: If the database is open somewhere.
    """
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken = hold(in_use_file(database), alone=True)
    if taken is None:
        raise BackupError(
            f"{database} is in use by another process.", do="Stop the server first, then retry."
        )
    return taken


def _clear(home: Path, *, keep: Path) -> None:
    """Delete what killed restores left behind."""
    for left in home.glob(f"{STAGING}*"):
        if left != keep:
            shutil.rmtree(left, ignore_errors=True)


def _holds_data(database: Path) -> bool:
    """Whether there is a database with rows that somebody made; a damaged one counts."""
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(database)) as rows:
            known = rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            tables = {name for (name,) in known} - {"alembic_version", "sqlite_sequence"}
            counts = {
                name: rows.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
                for name in tables
            }
    except sqlite3.Error:
        return True
    return counts.pop("projects", 0) > 1 or any(counts.values())


def _has_blobs(folder: Path) -> bool:
    return any(folder.glob("[0-9a-f][0-9a-f]/*"))


def start_log_anew(db: Database) -> None:
    """Give every store a log number that no index can have, so that all of them are rebuilt.

    An index that has followed what came after the backup was made, in whatever folder, process
    or machine, would else take the restored log for the one that it knows.
    """
    with db.write() as session:
        session.execute(delete(ChangeRow))
        mark_deleted(session)  # what a kill leaves of the old blobs is then removed later
        for store_id, seq in session.execute(select(StoreRow.id, StoreRow.seq)).all():
            if seq == 0:  # never held a chunk
                continue
            number = seq + 1 + secrets.randbelow(_JUMP)
            session.execute(update(StoreRow).where(StoreRow.id == store_id).values(seq=number))
            line = {"store_id": store_id, "seq": number, "op": 0, "chunk_id": 0}
            session.execute(insert(ChangeRow), line)


def _into_file(
    settings: Settings, database: Path, folder: Path, manifest: Manifest, *, aside: bool
) -> Restored:
    new = Database(f"sqlite:///{folder / DATABASE}")
    try:
        start_log_anew(new)
        missing = _missing(new, folder / "blobs")
    finally:
        new.close()
    with closing(sqlite3.connect(folder / DATABASE)) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = _set_aside(settings, database, folder / "aside") if aside else None
    _put_blobs(folder, settings.blobs_folder)
    os.sync()  # all of it is on disk before its database is there
    _drop_log_files(database, kept)
    os.replace(folder / DATABASE, database)
    _sync_folder(database.parent)
    if settings.indexes_folder.exists():
        target = kept / "indexes" if kept else folder / "indexes"
        os.replace(settings.indexes_folder, target)
    return _restored(settings, manifest, missing, kept)


def _drop_old_blobs(settings: Settings) -> None:
    """Delete blobs that the restored database does not know; those set aside are links of them."""
    db = Database(settings.url, timeout_s=settings.database_timeout)
    try:
        Files(db, Blobs(settings.blobs_folder)).drop_orphans()
    finally:
        db.close()


def _set_aside(settings: Settings, database: Path, folder: Path) -> Path:
    """Copy the old database and blobs, by links where that is possible, to a folder that stays.

    Args:
        settings: They name the home folder.
        database: The old one.
        folder: Where it is filled; it gets its name when it is complete.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as rows:
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    folder.mkdir(mode=0o700)
    if database.exists():
        _link(database, folder / "youju.db")
    for path in settings.blobs_folder.glob("[0-9a-f][0-9a-f]/*"):
        target = folder / "blobs" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(path, target)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    named = settings.home / f"{ASIDE}{moment}-{secrets.token_hex(3)}"
    os.replace(folder, named)
    return named


def _drop_log_files(database: Path, kept: Path | None) -> None:
    """Take the old write-ahead log away: SQLite would apply it to the new database.

    It is there only if the old database could not be read, and then goes to where that is kept.
    """
    for suffix in ("-wal", "-shm"):
        path = database.with_name(database.name + suffix)
        if kept is not None and path.exists():
            os.replace(path, kept / f"youju.db{suffix}")
        path.unlink(missing_ok=True)


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _put_blobs(folder: Path, blobs: Path) -> None:
    """Move what was unpacked to the others; one that is there already has the same content."""
    for path in (folder / "blobs").glob("*/*"):
        target = blobs / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    for path in (folder / "parts").glob("*"):
        target = blobs / "incoming" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)


def _into_server(settings: Settings, folder: Path, manifest: Manifest) -> Restored:
    source = Database(f"sqlite:///{folder / DATABASE}")
    target = Database(settings.url, timeout_s=settings.database_timeout)
    try:
        start_log_anew(source)
        missing = _missing(source, folder / "blobs")
        _put_blobs(folder, settings.blobs_folder)
        os.sync()
        with source.engine.connect() as reading, target.write() as session:
            names = ", ".join(f'"{name}"' for name in Base.metadata.tables)
            session.execute(text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE"))
            for table in Base.metadata.sorted_tables:
                query = select(func.count()).select_from(table)
                if table is ProjectRow.__table__:
                    query = query.where(ProjectRow.id != DEFAULT_PROJECT)
                if session.scalar(query):
                    raise BackupError(
                        f"The database {target.name} holds data already.",
                        do="Restore into an empty one, and set database_url to it.",
                    )
            copy_rows(reading, session.connection())
    finally:
        source.close()
        target.close()
    return _restored(settings, manifest, missing, None)


def _missing(db: Database, blobs: Path) -> tuple[str, ...]:
    """Return the names of files whose bytes the backup lacks."""
    with db.read() as session:
        files = session.execute(select(FileRow.filename, FileRow.sha256).where(FileRow.kept))
        return tuple(name for name, sha in files if not (blobs / sha[:2] / sha).exists())


def _restored(
    settings: Settings, manifest: Manifest, missing: tuple[str, ...], aside: Path | None
) -> Restored:
    return Restored(
        home=str(settings.home),
        created_at=manifest.created_at,
        youju=manifest.youju,
        stores=manifest.counts.get("stores", 0),
        documents=manifest.counts.get("documents", 0),
        files=manifest.counts.get("files", 0),
        missing=missing,
        aside=None if aside is None else str(aside),
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
