"""The process that runs jobs: `youju worker`, and the child that `youju serve` starts.

It takes files from the lists of the stores, the most urgent first, and runs each as a durable job.
What was in hand when a process died goes on here. Asked to end, it puts its jobs down before their
next step.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
import time
from contextlib import ExitStack
from typing import IO, Any

from ingest.executors import Slot, is_dead, sweep_locks
from ingest.file_job import MOST_DEATHS, FileClaim, FileIngestion, Report, Result, Stopped
from ingest.folder_job import KIND as FOLDER_KIND
from ingest.folder_job import PREFIX, FolderIngestion, Request, claim, interrupted
from ingest.folder_job import WORKFLOW as FOLDERS
from ingest.job import make_parsers, refresh_indexes
from ingest.jobs import WORKER_APP, Executor, base_of, file_base, file_of
from ingest.spool import REQUEST, Spool, spools
from rag.build import Rag, build_rag
from rag.config import Settings
from rag.errors import ModelError, YoujuError
from rag.store.database import translated
from rag.store.service_tables import FileRow, StoreFileRow
from rag.store.store_files import StoreFiles

KIND = "worker"
FILE = "ingest file"

IDLE_S = 0.5
"""Seconds between two looks for work, when nobody has rung."""

LOOK_AROUND_S = 3.0
"""Seconds between two looks for jobs of processes that have died."""

TIDY_S = 60.0
"""Seconds between two looks for what can be forgotten."""

FAULT_S = 5.0
"""Seconds to wait when the database cannot be used."""

LEAVE_S = 8.0
"""Seconds that the steps in hand get when the process is to end."""

_DAY_MS = 86_400_000


class Worker:
    """Runs jobs until it is told to stop.

    Args:
        rag: The parts.
        report: Told what became of each file; called from several threads.
        bell: Set it when there is something to do.
        stop: Set it, and the bell, when this is to end.
        index: Bring indexes up to date when all is done, for want of a server that does so.
    """

    def __init__(
        self,
        rag: Rag,
        *,
        report: Report = lambda *_: None,
        bell: threading.Event | None = None,
        stop: threading.Event | None = None,
        index: bool = False,
    ) -> None:
        self._rag = rag
        self._report = report
        self._bell = bell or threading.Event()
        self._stop = stop or threading.Event()
        self._index = index
        self._root = rag.settings.jobs_folder
        self._listed = StoreFiles(rag.db)
        self._lock = threading.Lock()
        self._active: dict[str, str] = {}  # job id -> under which name its file is claimed
        self._folders: dict[str, Spool] = {}  # of the runs of `youju ingest` in hand, by job id
        self._changed: set[str] = set()

    def run(self) -> bool:
        """Run jobs until told to stop.

        Returns:
            Whether all is put down; if not, the process is to end at once.

        Raises:
            StorageError: If it cannot begin.
        """
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        slot = Slot.take(self._root, KIND)
        with ExitStack() as parts:
            parts.callback(slot.release)
            executor = parts.enter_context(Executor(self._rag.settings, WORKER_APP, slot))
            pool = parts.enter_context(make_parsers(self._rag, self._rag.settings.job_concurrency))
            files = FileIngestion(
                self._rag, pool, self._root,
                holder=slot.run, report=self._told, stop=self._stop,
            )  # fmt: skip
            executor.register(FILE, lambda job_id, *given: self._file(files, job_id, *given))
            executor.register(FOLDERS, lambda job_id: self._folder(executor, job_id))
            self._executor = executor
            self._slot = slot
            self._warm_up()  # before a file is in hand, so that no file is blamed for it
            executor.launch()
            self._work()
            if self._leave():
                return True
            parts.pop_all()  # what still runs must not keep the process
        return False

    # -- the loop ------------------------------------------------------------------------------

    def _work(self) -> None:
        looked = tidied = 0.0
        while not self._stop.is_set():
            self._bell.clear()
            now = time.monotonic()
            try:
                if not looked or now - looked > LOOK_AROUND_S:
                    self._look_around()
                    looked = now
                while self._room() and not self._stop.is_set() and self._begin_next():
                    pass
                if not self._active and (not tidied or now - tidied > TIDY_S):
                    self._tidy()
                    tidied = now
                self._bring_up()
            except YoujuError as error:
                self._report("", "", "waiting", 0.0, str(error))
                self._stop.wait(FAULT_S)
            self._bell.wait(IDLE_S)

    def _room(self) -> bool:
        with self._lock:
            return len(self._active) < self._rag.settings.job_concurrency

    def _begin_next(self) -> bool:
        worker = f"{self._slot.name}.{secrets.token_hex(8)}"
        claimed = self._listed.claim(worker)
        if claimed is None:
            return False
        with translated("of the jobs"):
            self._begin(*claimed)
        return True

    def _begin(self, row: StoreFileRow, _file: FileRow) -> None:
        base = file_base(row.store_id, row.file_id)
        job_id = self._executor.next_id(base)
        for spool in spools(self._root):
            if base_of(spool.job_id) == base and self._abandoned(spool):
                Spool(self._root, job_id).inherit(spool)
        with self._lock:
            self._active[job_id] = str(row.worker)
        begun = False
        try:
            self._executor.start(job_id, FILE, row.store_id, row.file_id, row.worker)
            begun = True
        finally:
            if not begun:  # the claim is given back at the next look around
                with self._lock:
                    self._active.pop(job_id, None)

    def _abandoned(self, spool: Spool) -> bool:
        owner = spool.owner()
        mine = owner == self._slot.name and spool.job_id not in self._active
        return not owner or mine or is_dead(self._root, owner)

    def _file(
        self, files: FileIngestion, job_id: str, store_id: str, file_id: str, worker: str
    ) -> Result:
        with self._lock:
            self._active[job_id] = worker
        try:
            return files.run(FileClaim(store_id, file_id, worker, job_id), self._executor.step)
        finally:
            with self._lock:
                self._active.pop(job_id, None)
            self._bell.set()

    def _told(self, store: str, file: str, status: str, seconds: float, message: str) -> None:
        if status == "completed":
            with self._lock:
                self._changed.add(store)
        self._report(store, file, status, seconds, message)

    def _folder(self, executor: Executor, job_id: str) -> Result:
        spool = Spool(self._root, base_of(job_id))
        request = Request.read(spool)
        if request is None:
            return {"end": "cancelled", "reason": "no request"}
        if spool.take(self._slot.run) >= MOST_DEATHS:
            spool.remove()
            return {"end": "failed", "reason": "process died"}
        with self._lock:
            self._folders[job_id] = spool
        try:
            return self._folder_steps(executor, spool, request)
        except Stopped:
            spool.put_down()
            raise
        finally:
            with self._lock:
                self._folders.pop(job_id, None)

    def _folder_steps(self, executor: Executor, spool: Spool, request: Request) -> Result:
        work = FolderIngestion(self._rag, spool, request, pause=self._let_uploads_pass)
        try:
            result = work.run(executor.step)
            message = str(work.error or "")
            self._report("", spool.job_id, str(result["end"]), 0.0, message)
        finally:
            work.close()
        spool.remove()
        if result["end"] == "completed":
            refresh_indexes(self._rag, request.store)
        return result

    def _let_uploads_pass(self) -> None:
        """Wait as long as uploaded files are there to be ingested first."""
        while self._active and not self._stop.wait(0.1):
            pass
        if self._stop.is_set():
            raise Stopped

    # -- now and then --------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Go on with what others have left, and with what only the lists know."""
        with translated("of the jobs"):
            self._executor.take_over()
            live = {one.workflow_id: one for one in self._executor.live()}
            for job_id in [
                one.workflow_id
                for one in live.values()
                if one.application_name == WORKER_APP
                and one.app_version != self._executor.version
                and (
                    one.executor_id == self._slot.name or is_dead(self._root, str(one.executor_id))
                )
            ]:  # of a program whose steps were others: it begins again
                self._executor.cancel(job_id)
                del live[job_id]
            held = {str(args[2]) for one in live.values() if len(args := _args(one)) == 3}
            for row in self._listed.claimed():
                owner = str(row.worker).rpartition(".")[0]
                with self._lock:
                    active = row.worker in self._active.values()
                mine = owner == self._slot.name
                if not active and row.worker not in held and (mine or is_dead(self._root, owner)):
                    self._listed.release(row)
            wanted = {spool.job_id for spool in spools(self._root)}
            for one in live.values():
                if base_of(one.workflow_id).startswith(PREFIX):
                    gone = base_of(one.workflow_id) not in wanted
                    other = one.application_name != WORKER_APP
                    if (gone or other) and is_dead(self._root, str(one.executor_id)):
                        self._executor.cancel(one.workflow_id)
            for spool in self._left_behind():
                known = any(
                    base_of(one.workflow_id) == spool.job_id and one.application_name == WORKER_APP
                    for one in live.values()
                )
                if not known and self._claim_folders(spool):
                    self._executor.start(self._executor.next_id(spool.job_id), FOLDERS)
            sweep_locks(self._root, FOLDER_KIND)

    def _left_behind(self) -> list[Spool]:
        """Return the spools of `youju ingest` that nobody works on, unless DBOS is about to."""
        mine = [
            spool
            for spool in spools(self._root)
            if spool.job_id.startswith(PREFIX)
            and spool.owner() == self._slot.name
            and spool.holder() != self._slot.run  # of an earlier life
            and Request.read(spool) is not None
        ]
        return [*mine, *(spool for spool, _request in interrupted(self._root))]

    def _claim_folders(self, spool: Spool) -> bool:
        if spool.owner() == self._slot.name:
            spool.take(self._slot.run)
            return True
        return claim(self._root, spool, self._slot)

    def _tidy(self) -> None:
        """Forget jobs that are old, or whose file is gone; remove spools that nobody needs."""
        oldest = int(time.time() * 1000) - self._rag.settings.job_history_days * _DAY_MS
        with translated("of the jobs"):
            live = {one.workflow_id for one in self._executor.live()}
            forget = []
            listed: dict[str, set[str]] = {}
            for one in self._executor.over():
                of = file_of(base_of(one.workflow_id))
                if of is not None and of[0] not in listed:
                    listed[of[0]] = set(self._listed.all_ids(of[0]))
                gone = of is not None and of[1] not in listed[of[0]]
                if gone or (one.completed_at or one.created_at or 0) < oldest:
                    forget.append(one.workflow_id)
            self._executor.forget(forget)
        for spool in spools(self._root):
            of = file_of(base_of(spool.job_id))
            if of is None:
                if not spool.read(REQUEST) and is_dead(self._root, spool.owner()):
                    spool.remove()
                continue
            if spool.job_id in live:
                continue
            row = self._listed.get(*of)
            if row is None or row.status != "in_progress":
                spool.remove()

    def _bring_up(self) -> None:
        if not self._index or self._active:
            return
        with self._lock:
            changed, self._changed = self._changed, set()
        names = {info.id: info.name for info in self._rag.catalog.stores()} if changed else {}
        for store_id in changed & names.keys():
            refresh_indexes(self._rag, names[store_id])

    def _warm_up(self) -> None:
        try:
            self._rag.embedder.encode_passages(["warm up 预热"])
        except ModelError as error:  # files will wait, and say so
            self._report("", "", "waiting", 0.0, str(error))

    def _leave(self) -> bool:
        """Wait until the jobs in hand are put down; return whether they are."""
        end = time.monotonic() + LEAVE_S
        while (self._active or self._folders) and time.monotonic() < end:
            time.sleep(0.02)
        with self._lock:
            left = [Spool(self._root, job_id) for job_id in self._active]
            left += [spool for spool in self._folders.values() if spool.read(REQUEST)]
        for spool in left:
            spool.put_down()
        return not self._active and not self._folders


def _args(one: Any) -> tuple[Any, ...]:  # noqa: ANN401
    return tuple((one.input or {}).get("args", ()))


def serve_parent(settings: Settings, source: IO[bytes], target: IO[str]) -> None:
    """Run jobs for a parent process: until its pipe closes, reporting to it in lines of JSON.

    Args:
        settings: The parent's.
        source: Each byte rings the bell; its end means that the parent wants no more, or is dead.
        target: Where reports go.
    """
    bell, stop = threading.Event(), threading.Event()
    saying = threading.Lock()

    def listen() -> None:
        while source.read(1):
            bell.set()
        stop.set()
        bell.set()

    def report(store: str, file: str, status: str, seconds: float, message: str) -> None:
        line = json.dumps([store, file, status, seconds, message])
        with saying:
            try:
                target.write(line + "\n")
                target.flush()
            except OSError:  # the parent is dead; `listen` sees that, too
                return

    threading.Thread(target=listen, name="parent", daemon=True).start()
    Worker(build_rag(settings), report=report, bell=bell, stop=stop).run()


def main() -> None:
    """Be the child of a server: settings as a line of JSON on standard input, then the bell."""
    source = sys.stdin.buffer
    settings = Settings(**json.loads(source.readline()))
    target = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints must not look like a report
    try:
        serve_parent(settings, source, target)
    except YoujuError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    sys.stderr.flush()
    os._exit(0)  # a step that does not end must not keep the process
