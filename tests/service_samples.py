"""Projects, files and what lies on disk, for the tests of what the service stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import func, select

from rag.errors import YoujuError
from rag.store.database import Database
from rag.store.files import Files, NewFile
from rag.store.ids import new_id
from rag.store.service_tables import FileRow, ProjectRow, StoreFileRow
from rag.store.tables import DEFAULT_PROJECT, Base, ChunkRow, DocumentRow


def new_project(db: Database) -> str:
    """Make a project; return its id."""
    project = new_id("proj_")
    with db.write() as session:
        session.add(ProjectRow(id=project, name=project, created_at=int(time.time())))
    return project


def new_file(project: str = DEFAULT_PROJECT, name: str = "a.txt") -> NewFile:
    return NewFile(project, name, "assistants", "text/plain")


def add_file(
    files: Files, content: bytes, project: str = DEFAULT_PROJECT, name: str = "a.txt"
) -> FileRow:
    """Upload a file in one piece."""
    with files.blobs.receive() as incoming:
        incoming.write(content)
        return files.add(new_file(project, name), incoming)


def on_disk(folder: Path) -> set[str]:
    """Names of everything in a blob folder but its lock: "ab/abcd..." and "incoming/..."."""
    found = (
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("lock", "pin")
    )
    return {str(path.relative_to(folder)) for path in found}


def count(db: Database, table: type[Base]) -> int:
    with db.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def check_nothing_is_left(db: Database, *, files: int = 0) -> None:
    """No documents, chunks or places in stores; so many files."""
    tables = (DocumentRow, ChunkRow, StoreFileRow, FileRow)
    assert [count(db, table) for table in tables] == [0, 0, 0, files]


def check_lists_agree(db: Database) -> None:
    """Every document has its file and a completed place in its store, and the other way round."""
    with db.read() as session:
        documents = session.execute(select(DocumentRow.store_id, DocumentRow.file_id)).all()
        listed = session.execute(
            select(StoreFileRow.store_id, StoreFileRow.file_id).where(
                StoreFileRow.status == "completed"
            )
        ).all()
        files = set(session.scalars(select(FileRow.id)))
        loose = set(session.scalars(select(FileRow.id).where(~FileRow.kept)))
    assert sorted(map(tuple, documents)) == sorted(map(tuple, listed))
    assert {file for _, file in documents} <= files
    assert loose <= {file for _, file in documents}


def at_once(
    calls: Sequence[Callable[[], object]], timeout_s: float = 60.0
) -> list[object | YoujuError]:
    """Run each in a thread of its own, all released at one moment; return results or errors."""
    ready = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def run(place: int) -> None:
        ready.wait(timeout_s)
        try:
            results[place] = calls[place]()
        except YoujuError as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
        assert not thread.is_alive()
    return results
