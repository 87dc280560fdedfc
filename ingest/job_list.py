"""What jobs there are, how far they are, and what became of those that are done.

What waits stands in the lists of the stores, progress in the spools, history in the job database,
by ids; names are looked up here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingest.executors import is_dead
from ingest.folder_job import CANCEL, PREFIX, Request
from ingest.jobs import LIVE, JobDatabase, base_of, file_base, file_of
from ingest.spool import PROGRESS, Spool, spools
from rag.build import Rag
from rag.store.blobs import Blobs
from rag.store.files import Files
from rag.store.service_tables import StoreFileRow
from rag.store.store_files import StoreFiles

if TYPE_CHECKING:
    from dbos import WorkflowStatus


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far a file is that is being ingested.

    Attributes:
        phase: queued, waiting (a fault of the machine), parsing, chunking, embedding, committing.
        bytes: The file's.
        pages: None while they are not known.
        chunks_done: Chunks embedded.
        chunks_total: None while they are not known.
        seconds_left: An estimate, None while there is none.
        reason: Why it waits.
        retry_at: When it is tried again, Unix seconds.
    """

    phase: str
    bytes: int | None = None
    pages: int | None = None
    chunks_done: int = 0
    chunks_total: int | None = None
    seconds_left: float | None = None
    reason: str | None = None
    retry_at: int | None = None


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job, as `youju jobs` shows it.

    Attributes:
        id: Takes `youju jobs show` and `cancel`.
        kind: "file" (an upload) or "folders" (`youju ingest`).
        status: queued, waiting, running, interrupted; completed, failed, cancelled.
        store: The store's name.
        file: The file's name, or the folders.
        created_at: Unix seconds.
        seconds: How long it took.
        reason: Why it failed or waits.
        progress: How far it is, while it is not over.
    """

    id: str
    kind: str
    status: str
    store: str
    file: str
    created_at: int
    seconds: float | None = None
    reason: str = ""
    progress: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        """Whether it is done, one way or another."""
        return self.status in ("completed", "failed", "cancelled")


def progress_of(root: Path, rows: Iterable[StoreFileRow]) -> dict[str, FileProgress]:
    """Return how far files are that are in progress, by `file_base`."""
    wanted = {file_base(row.store_id, row.file_id): row for row in rows}
    wanted = {base: row for base, row in wanted.items() if row.status == "in_progress"}
    found: dict[str, FileProgress] = {}
    if not wanted:
        return found
    for spool in spools(root):
        base = base_of(spool.job_id)
        if base in wanted:
            found[base] = _progress(spool, wanted[base])
    return {base: FileProgress("queued") for base in wanted} | found


def _progress(spool: Spool, row: StoreFileRow) -> FileProgress:
    said = spool.read(PROGRESS) or {}
    if said.get("phase") == "waiting":
        return FileProgress("waiting", reason=said.get("reason"), retry_at=row.worker_until)
    if row.worker is None or "phase" not in said:
        return FileProgress("queued")
    left = said.get("seconds_left")
    return FileProgress(
        phase=said["phase"],
        bytes=said.get("bytes"),
        pages=said.get("pages"),
        chunks_done=said.get("chunks_done", 0),
        chunks_total=said.get("chunks_total"),
        seconds_left=None if left is None else max(0.0, left - (time.time() - said["at"])),
    )


def jobs(rag: Rag, *, limit: int = 100) -> list[JobInfo]:
    """Return what is to be done, in order, then what is done, the latest first.

    Args:
        rag: The parts.
        limit: At most so many of what is done.

    Raises:
        StorageError: If the databases cannot be read.
    """
    names = _Names(rag)
    rows = StoreFiles(rag.db).unfinished()
    found = [_waiting(names, rag.settings.jobs_folder, row) for row in rows]
    return [*_folders(rag.settings.jobs_folder), *found, *_history(rag, names, limit)]


def _waiting(names: _Names, root: Path, row: StoreFileRow) -> JobInfo:
    base = file_base(row.store_id, row.file_id)
    progress = progress_of(root, [row])[base]
    owner = str(row.worker).rpartition(".")[0]
    if row.worker is None:
        status = progress.phase if progress.phase in ("queued", "waiting") else "queued"
    else:
        status = "interrupted" if is_dead(root, owner) else "running"
    return JobInfo(
        base, "file", status, names.store(row.store_id), names.file(row.file_id), row.created_at,
        reason=progress.reason or "", progress=asdict(progress),
    )  # fmt: skip


def _folders(root: Path) -> list[JobInfo]:
    found = []
    for spool in spools(root):
        request = Request.read(spool) if spool.job_id.startswith(PREFIX) else None
        if request is not None:
            status = "interrupted" if is_dead(root, spool.owner()) else "running"
            created = int((spool.read("request.json") or {}).get("created_at", 0))
            where = ", ".join(request.paths)
            found.append(
                JobInfo(
                    spool.job_id,
                    "folders",
                    status,
                    request.store,
                    where,
                    created,
                    progress=spool.read(PROGRESS),
                )
            )
    return found


def _history(rag: Rag, names: _Names, limit: int) -> list[JobInfo]:
    if not JobDatabase.is_there(rag.settings):
        return []
    database = JobDatabase(rag.settings)
    try:
        if not database.exists():
            return []
        client = database.client()
        try:
            known = client.list_workflows(sort_desc=True, limit=limit, load_input=False)
        finally:
            client.destroy()
    finally:
        database.close()
    listed = StoreFiles(rag.db)
    found = []
    for one in known:
        result = one.output if isinstance(one.output, dict) else {}
        if one.status in LIVE or result.get("end") == "waiting":
            continue
        of = file_of(base_of(one.workflow_id))
        row = None if of is None else listed.get(*of)
        if of is not None and row is None:
            continue  # of a file that is gone: it is forgotten soon
        found.append(_done(names, one, result, row))
    return found


def _done(
    names: _Names, one: WorkflowStatus, result: dict[str, Any], row: StoreFileRow | None
) -> JobInfo:
    status = "cancelled" if one.status == "CANCELLED" else str(result.get("end", "failed"))
    reason = str(result.get("reason", ""))
    if row is not None and status == "failed" == row.status:
        reason = row.error_message or reason
    begun, ended = one.created_at or 0, one.completed_at or one.updated_at or 0
    return JobInfo(
        one.workflow_id,
        "folders" if row is None else "file",
        status,
        "" if row is None else names.store(row.store_id),
        "" if row is None else names.file(row.file_id),
        begun // 1000,
        seconds=max(0, ended - begun) / 1000,
        reason=reason,
    )


class _Names:
    """Looks names up, each once."""

    def __init__(self, rag: Rag) -> None:
        self._files = Files(rag.db, Blobs(rag.settings.blobs_folder))
        self._stores = {info.id: info.name for info in rag.catalog.stores()}
        self._known: dict[str, str] = {}

    def store(self, store_id: str) -> str:
        return self._stores.get(store_id, store_id)

    def file(self, file_id: str) -> str:
        if file_id not in self._known:
            row = self._files.find(file_id)
            self._known[file_id] = file_id if row is None else row.filename
        return self._known[file_id]


def cancel_job(rag: Rag, job_id: str) -> bool:
    """Give a job up: at once if it waits, before its next step if it runs.

    Returns:
        Whether there was one that is not over.

    Raises:
        StorageError: If the databases cannot be used.
    """
    root = rag.settings.jobs_folder
    if job_id.startswith(PREFIX):
        spool = Spool(root, base_of(job_id) or job_id)
        if Request.read(spool) is None or "/" in job_id:
            return False
        spool.write(CANCEL, {"cancel": True})
        if is_dead(root, spool.owner()):
            spool.remove()
        return True
    of = file_of(job_id)
    return of is not None and StoreFiles(rag.db).cancel(of[0], of[1].partition(".")[0])
