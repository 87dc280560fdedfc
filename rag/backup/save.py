"""Writes a backup while others read, upload, ingest and delete.

Nothing that was acknowledged before it began is missing: first no blob may go any more (they are
pinned), then the database is copied in one consistent state, then come the blobs that this copy
refers to. What is deleted meanwhile is in the backup still, and goes when the pin has.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from rag.backup.archive import BLOCK, DATABASE, MANIFEST, ArchiveReader, ArchiveWriter
from rag.backup.manifest import Manifest
from rag.backup.portable import copy_to_sqlite
from rag.errors import BackupError, PathError
from rag.store.blobs import Blobs
from rag.store.database import SCHEMA_VERSION, Database, disk_error, translated
from rag.store.hold import hold
from rag.store.tables import Base
from rag.terminal import Advance, Progress

_AT_ONCE = 8 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Saved:
    """A backup that was written.

    Attributes:
        file: Where it is.
        bytes: Its size.
        stores, documents, files: What is in it.
        missing: Names of uploaded files whose bytes are missing or damaged here, and so there.
        seconds: How long it took.
    """

    file: str
    bytes: int
    stores: int
    documents: int
    files: int
    missing: tuple[str, ...]
    seconds: float


def save(
    db: Database, blobs: Blobs, file: Path, *, progress: Advance = lambda _progress: None
) -> Saved:
    """Write a backup; a file of that name is replaced, if it is a backup, once this one is whole.

    Args:
        db: The database.
        blobs: The uploaded files.
        file: Where to; the folder needs room for the database and the blobs.
        progress: Told how many MiB of how many are done.

    Raises:
        BackupError: If another file of that name is there.
        PathError: If its folder is not there.
        StorageError: If something cannot be read or written; nothing is left under the name.
    """
    begin = time.monotonic()
    file = file.absolute()
    _check_place(file)
    with translated(file), _working_folder(file) as folder, closing(blobs.pin()):
        copy = folder / DATABASE
        progress(Progress(0, 1, "database"))
        _copy_database(db, copy)
        with closing(sqlite3.connect(copy)) as rows:
            manifest, missing = _write(db, rows, blobs, folder, progress)
        target = folder / "archive"
        size = target.stat().st_size
        os.replace(target, file)
        _sync_folder(file.parent)
    return Saved(
        file=str(file),
        bytes=size,
        stores=manifest.counts["stores"],
        documents=manifest.counts["documents"],
        files=manifest.counts["files"],
        missing=missing,
        seconds=time.monotonic() - begin,
    )


def _check_place(file: Path) -> None:
    if not file.parent.is_dir():
        raise PathError(f"The folder {file.parent} is not there.", do="Make it first.")
    if not file.exists():
        return
    try:
        with file.open("rb") as handle:
            first = next(ArchiveReader(handle, str(file)).members(), None)
    except (BackupError, OSError):
        first = None
    if first is None or first.name != MANIFEST:
        raise BackupError(f"{file} is there and is no backup.", do="Give another name.")


@contextmanager
def _working_folder(file: Path) -> Iterator[Path]:
    """Yield a folder beside `file` for nobody else's eyes; those of killed runs go first."""
    prefix = f".{file.name}.youju-"
    for left in file.parent.glob(f".{_escaped(file.name)}.youju-*"):
        with suppress(OSError):
            taken = hold(left / "in-use", alone=True)
            if taken is not None:
                shutil.rmtree(left)
                taken.close()
    folder = Path(mkdtemp(prefix=prefix, dir=file.parent))
    try:
        taken = hold(folder / "in-use", alone=True)
        yield folder
        if taken is not None:
            taken.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _copy_database(db: Database, copy: Path) -> None:
    """Copy the database in one consistent state; readers and writers go on meanwhile."""
    if db.file is None:
        copy_to_sqlite(db.engine, copy)
        return
    with closing(sqlite3.connect(db.file, timeout=60, isolation_level=None)) as source:
        source.execute("VACUUM INTO ?", (str(copy),))  # leaves free pages out, too
    with closing(sqlite3.connect(copy)) as found:
        found.execute("PRAGMA user_version = 0")


def _write(
    db: Database, rows: sqlite3.Connection, blobs: Blobs, folder: Path, progress: Advance
) -> tuple[Manifest, tuple[str, ...]]:
    copy = folder / DATABASE
    parts = rows.execute(
        "SELECT p.id, p.bytes FROM upload_parts p JOIN uploads u ON u.id = p.upload_id "
        "WHERE u.status = 'pending' AND u.expires_at > ? ORDER BY p.id", (int(time.time()),)
    ).fetchall()  # fmt: skip
    counted = rows.execute(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM "
        "(SELECT sha256, max(bytes) AS bytes FROM files WHERE kept GROUP BY sha256)"
    ).fetchone()
    with copy.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    manifest = Manifest(
        youju=version("youju"),
        schema=SCHEMA_VERSION,
        created_at=int(time.time()),
        origin="sqlite" if db.file is not None else db.engine.dialect.name,
        database_bytes=copy.stat().st_size,
        database_sha256=sha256,
        parts=len(parts),
        part_bytes=sum(size for _, size in parts),
        blobs=counted[0],
        blob_bytes=counted[1],
        counts={
            name: rows.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
            for name in sorted(Base.metadata.tables)
        },
    )
    missing: list[str] = []
    with _new_file(folder / "archive") as target:
        archive = ArchiveWriter(target, folder)
        with closing(archive):
            add = _Adder(archive, manifest.total_bytes, progress)
            encoded = manifest.encode()
            archive.add(MANIFEST, len(encoded), [encoded])
            with copy.open("rb") as handle:
                add(DATABASE, manifest.database_bytes, _blocks(handle), "database")
            for name, _size in parts:
                _add_part(add, blobs, name, missing)
            for (digest,) in rows.execute(
                "SELECT DISTINCT sha256 FROM files WHERE kept ORDER BY sha256"
            ):
                if not _add_blob(add, blobs, digest):
                    query = "SELECT filename FROM files WHERE kept AND sha256 = ?"
                    missing += [name for (name,) in rows.execute(query, (digest,))]
            archive.finish()
        target.flush()
        os.fsync(target.fileno())
    return manifest, tuple(missing)


class _Adder:
    """Appends files and tells how far that is."""

    def __init__(self, archive: ArchiveWriter, total: int, progress: Advance) -> None:
        self._archive = archive
        self._total = total
        self._progress = progress
        self._done = 0

    def __call__(self, name: str, size: int, blocks: Iterator[bytes], shown: str) -> None:
        self._archive.add(name, size, self._counted(blocks, shown))

    def _counted(self, blocks: Iterator[bytes], shown: str) -> Iterator[bytes]:
        for block in blocks:
            yield block
            self._done += len(block)
            self._progress(Progress(self._done // _MIB, self._total // _MIB, shown))


def _add_part(add: _Adder, blobs: Blobs, name: str, missing: list[str]) -> None:
    try:
        path = blobs.left_over(name)
    except FileNotFoundError:
        missing.append(name)
        return
    with path.open("rb") as handle:
        add(f"parts/{name}", os.fstat(handle.fileno()).st_size, _blocks(handle), "uploads")


def _add_blob(add: _Adder, blobs: Blobs, sha256: str) -> bool:
    """Append a blob; return whether it is there and is what it was."""
    path = blobs.path(sha256)
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        return False
    with handle:
        size = os.fstat(handle.fileno()).st_size
        if size <= _AT_ONCE:
            data = handle.read()
            found, blocks = hashlib.sha256(data).hexdigest(), iter([data])
            size = len(data)
        else:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
            handle.seek(0)
            blocks = _blocks(handle)
        if found == sha256:
            add(f"blobs/{sha256[:2]}/{sha256}", size, blocks, "files")
    return found == sha256


def _blocks(handle: BinaryIO) -> Iterator[bytes]:
    read: Callable[[], bytes] = lambda: handle.read(BLOCK)  # noqa: E731
    return iter(read, b"")


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        os.close(handle)
