"""`youju ingest` as a durable job: what is asked for is on disk before it begins.

A job's request (store, paths) lies in its spool, not in the job database: paths are nobody's
business. One group of files is committed by each step; a step that was done is not done again, and
a run that begins anew skips what the store holds already, by its hash. So a run that was killed is
finished by whoever comes next: `youju ingest`, `youju worker` or `youju serve`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ingest.executors import Slot, held_if_dead, is_dead, sweep_locks
from ingest.file_job import MOST_DEATHS, Result, Step, Stopped
from ingest.job import make_ingestion, make_parsers, refresh_indexes
from ingest.jobs import FOLDER_APP, LIVE, Executor, JobDatabase, base_of
from ingest.pipeline import IngestReport, Work
from ingest.spool import REQUEST, Spool, note_progress, spools
from rag.build import Rag
from rag.errors import UsageError, YoujuError
from rag.store.database import translated
from rag.store.ids import new_id
from rag.terminal import Advance, Progress, count

PREFIX = "ingest_"
WORKFLOW = "ingest folders"
KIND = "ingest"
CANCEL = "cancel.json"
"""Lies in the spool of a run that is to be given up."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a run was asked for: absolute paths, the store, whether to prune."""

    store: str
    paths: tuple[str, ...]
    prune: bool

    @classmethod
    def read(cls, spool: Spool) -> Request | None:
        """Return the request that a spool holds, None if there is none."""
        found = spool.read(REQUEST)
        if found is None:
            return None
        try:
            return cls(found["store"], tuple(found["paths"]), bool(found["prune"]))
        except (KeyError, TypeError):
            return None

    def write(self, spool: Spool) -> None:
        """Put it into a spool.

        Raises:
            StorageError: If the folder cannot be written.
        """
        fields = {"store": self.store, "paths": list(self.paths), "prune": self.prune}
        spool.write(REQUEST, {**fields, "created_at": time.time()})


class FolderIngestion:
    """One run, step by step.

    Args:
        rag: The parts.
        spool: Where its request is.
        request: What is asked for.
        paths: Its paths as they were given, for errors to name; None: as the request has them.
        progress: Called before each file.
        pause: Called before each group: returns when it may begin.
    """

    def __init__(
        self,
        rag: Rag,
        spool: Spool,
        request: Request,
        *,
        paths: Sequence[Path] | None = None,
        progress: Advance = lambda _progress: None,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self._rag = rag
        self.spool = spool
        self.request = request
        self._paths = paths
        self._progress = progress
        self._pause = pause
        self._parts = ExitStack()
        self._steps: Generator[Progress, None, IngestReport] | None = None
        self._noted = 0.0
        self.work = Work()
        self.report: IngestReport | None = None
        self.error: YoujuError | None = None

    def look(self) -> None:
        """See which files there are.

        Raises:
            YoujuError: As `ingest.pipeline.Ingestion.run`.
        """
        pool = self._parts.enter_context(make_parsers(self._rag))
        ingestion = make_ingestion(self._rag, self.request.store, pool)
        paths = self._paths or [Path(path) for path in self.request.paths]
        self._steps = ingestion.steps(
            paths, prune=self.request.prune, progress=self._say, work=self.work
        )
        self.go_on()

    def run(self, step: Step) -> Result:
        """Do what is left, a group to a step; return the last step's result."""
        while True:
            result = step("group", self._group)
            if "end" in result:
                return result

    def close(self) -> None:
        """Stop the parsers."""
        self._parts.close()

    def _group(self) -> Result:
        if self.spool.read(CANCEL) is not None:
            return {"end": "cancelled"}
        try:
            self._pause()
            if self._steps is None:
                self.look()
            more = self.go_on()
        except YoujuError as error:
            self.error = error
            return {"end": "failed", "reason": type(error).__name__}
        if more:
            return {}
        report = self.report
        assert report is not None
        return {
            "end": "completed",
            "files": len(report.outcomes),
            "chunks": report.chunks,
            "rejected": len(report.rejected),
        }

    def go_on(self) -> bool:
        """Commit the group that is ready and get the next one ready; False: there is none.

        Raises:
            YoujuError: As `ingest.pipeline.Ingestion.run`.
        """
        assert self._steps is not None
        try:
            next(self._steps)
        except StopIteration as end:
            self.report = end.value
            return False
        return True

    def _say(self, progress: Progress) -> None:
        self._progress(progress)
        now = time.monotonic()
        if now - self._noted > 1.0:
            self._noted = now
            note_progress(
                self.spool, phase="ingesting", files_done=progress.done, files_total=progress.total
            )


def ingest_durably(
    rag: Rag,
    store_name: str,
    paths: Sequence[Path],
    *,
    prune: bool = False,
    progress: Advance = lambda _progress: None,
    tell: Callable[[str], None] = lambda _sentence: None,
    broken_off: Callable[[Work], None] = lambda _work: None,
) -> IngestReport:
    """Do as `ingest.job.ingest_paths`, as a job that outlives this process.

    Runs that were interrupted are finished first.

    Args:
        rag: The parts.
        store_name: Which store.
        paths: Files and folders.
        prune: Also remove documents whose file is gone from one of the folders.
        progress: Called before each file.
        tell: Called with a sentence for each run that was interrupted and is finished now.
        broken_off: Called with what was done and refused until an error ended the run, which is
            raised then.

    Raises:
        YoujuError: As `ingest_paths` does.
    """
    root = rag.settings.jobs_folder
    asked = Request(store_name, tuple(os.path.abspath(path) for path in paths), prune)
    for spool, request in interrupted(root):
        _finish(rag, spool, request, asked, progress, tell)
    work = FolderIngestion(rag, Spool(root, new_id(PREFIX)), asked, paths=paths, progress=progress)
    try:
        work.look()
        slot = Slot.unique(root, KIND)
        try:
            work.spool.take(slot.run)
            asked.write(work.spool)
            return _run(rag, work, slot)
        finally:
            slot.release()
            sweep_locks(root, KIND)
    except YoujuError:
        broken_off(work.work)
        raise
    finally:
        work.close()


def _finish(
    rag: Rag,
    spool: Spool,
    request: Request,
    asked: Request,
    progress: Advance,
    tell: Callable[[str], None],
) -> None:
    root = rag.settings.jobs_folder
    slot = Slot.unique(root, KIND)
    work = FolderIngestion(rag, spool, request, progress=progress)
    try:
        if not claim(root, spool, slot):
            return
        if spool.deaths(slot.run) >= MOST_DEATHS:
            _forget(rag, spool)
            tell(
                f"An ingest into store {request.store} is given up: {MOST_DEATHS} times the "
                "process that did it broke down."
            )
            return
        if request == asked:  # the run that is asked for now is its end
            _forget(rag, spool)
            tell("Going on with an ingest that was interrupted.")
            return
        work.look()
        report = _run(rag, work, slot)
        stored = report.count("added") + report.count("replaced")
        tell(
            f"Finished an ingest into store {request.store} that was interrupted: "
            f"{count(stored, 'file')} stored, {report.count('unchanged')} unchanged."
        )
    except YoujuError as error:
        tell(f"An ingest into store {request.store} that was interrupted has failed: {error}")
        spool.remove()
    finally:
        work.close()
        slot.release()


def interrupted(root: Path) -> list[tuple[Spool, Request]]:
    """Return the runs whose process is dead, the oldest first."""
    found = []
    for spool in spools(root):
        if spool.job_id.startswith(PREFIX) and is_dead(root, spool.owner()):
            request = Request.read(spool)
            if request is not None:
                found.append((spool, request))
    return found


def claim(root: Path, spool: Spool, slot: Slot) -> bool:
    """Take over a run whose process is dead, unless another has just done so."""
    holder = spool.holder()
    with held_if_dead(root, spool.owner()) as dead:
        if not dead or spool.holder() != holder:
            return False
        spool.take(slot.run)
        return True


def _run(rag: Rag, work: FolderIngestion, slot: Slot) -> IngestReport:
    try:
        if work.go_on():  # else nothing is to be stored, and no durable job is needed for it
            with (
                translated("of the jobs"),
                Executor(rag.settings, FOLDER_APP, slot) as executor,
            ):
                executor.register(WORKFLOW, lambda _job_id: work.run(executor.step))
                executor.launch()
                _cancel_earlier(executor, work.spool)
                job_id = executor.next_id(work.spool.job_id)
                try:
                    executor.run(job_id, WORKFLOW)
                except (KeyboardInterrupt, Stopped):
                    executor.cancel(job_id)
                    raise
        if work.error is not None:
            raise work.error
        refresh_indexes(rag, work.request.store)
        if work.report is None:
            raise UsageError(
                "This ingest was cancelled.", do="What was committed before stays in the store."
            )
        return work.report
    finally:
        work.spool.remove()


def _cancel_earlier(executor: Executor, spool: Spool) -> None:
    for one in executor.live():
        if base_of(one.workflow_id) == spool.job_id:
            executor.cancel(one.workflow_id)


def _forget(rag: Rag, spool: Spool) -> None:
    """Drop a run that need not be finished, because the same is asked for again."""
    spool.remove()
    if not JobDatabase.is_there(rag.settings):
        return
    database = JobDatabase(rag.settings)
    try:
        if database.exists():
            client = database.client()
            with translated("of the jobs"):
                for one in client.list_workflows(
                    status=LIVE, workflow_id_prefix=f"{spool.job_id}.", load_input=False
                ):
                    client.cancel_workflow(one.workflow_id)
            client.destroy()
    finally:
        database.close()
